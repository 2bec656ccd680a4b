"""The report's page in a real browser: every control, the numbers, the state in the address, narrow and dark."""

import csv
import json
import re

import pytest

from adapt.report.html_report import write_report
from adapt.report.results_index import read_runs
from tests.adapt.report.artificial_runs import DATASETS, write_evaluation
from tests.browser.pages import WIDTHS, contrast, find_overlaps, hidden_width

LONG = "runs/2026-11-30/a_folder_with_a_long_name/and_another_one/lr=0.00125,batch=16384/export"
RUNS = {
    "first": {"zero_shot": 0.3, 1: 0.4, 4: 0.5},
    LONG: {"zero_shot": 0.3, 1: 0.5, 4: 0.7},
    "third": {"zero_shot": 0.35, 1: 0.3, 4: 0.45},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of three runs on two datasets, with training metrics and jobs."""
    workdir = tmp_path_factory.mktemp("browser")
    write_evaluation(workdir, shares=RUNS)
    runs = read_runs(workdir)
    for number, run in enumerate(runs):
        metrics = [{"step": 500 * step, "loss": 3 / step + number, "context_loss": 4 / step} for step in range(1, 40)]
        jobs = [{"job": "export", "what": f"to {LONG}", "seconds": 1234.5 + number}]
        runs[number] = run._replace(metrics=metrics, jobs=jobs)
    write_report(runs, workdir, title="Report of a sweep", baseline="first")
    return workdir


@pytest.fixture
def open_report(open_page, folder):
    return lambda **options: open_page(folder / "report.html", **options)


def read_table(folder, name):
    with open(folder / "tables" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return [[cell.removeprefix("'") for cell in line] for line in csv.reader(file)]  # '+1.5: no formula


def visible_rows(page, name):
    """Return the visible body rows of a table, as texts."""
    return page.evaluate(
        """(name) => [...document.querySelectorAll(`[data-name="${name}"] tbody tr`)]
          .filter((row) => row.checkVisibility())
          .map((row) => [...row.cells].map((cell) => cell.textContent.trim()))""",
        name,
    )


def value(cell):
    return float(re.match(r"[+−]?[\d,.]+", cell)[0].replace(",", "").replace("−", "-"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overlaps_is_cut_or_faint(open_report, width, dark):
    page = open_report(width=width, dark=dark)
    for dataset in page.locator("#dataset option").all_inner_texts():
        page.select_option("#dataset", dataset)
        assert hidden_width(page) == 0
        assert find_overlaps(page, ".panel svg text") == []
        assert find_overlaps(page, "h1, h2, p, li, caption, figcaption, .tools, .choose label") == []
        assert find_overlaps(page, "th, td") == []
    assert contrast(page, "h1, h2 a, p, li, td, th button, caption, label, select, .panel svg text") >= 4.5
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 24, 31)" if dark else "rgb(255, 255, 255)"
    )


def test_every_control_works_without_an_error(open_report):
    page = open_report(width=400)
    page.locator("summary").click()
    for link in (page.locator("#contents a:visible").nth(1), page.locator("#protocol a")):
        link.click()
        assert page.evaluate("decodeURIComponent(location.hash)").startswith(link.get_attribute("href"))
    for kind in ("dataset", "method"):
        for option in page.locator(f"#{kind} option").all_inner_texts():
            page.select_option(f"#{kind}", option)
            shown = page.evaluate(
                """(kind) => [...document.querySelectorAll(`section[data-${kind}]`)]
                  .filter((one) => one.checkVisibility())
                  .map((one) => one.dataset[kind])""",
                kind,
            )
            assert set(shown) == {option} and hidden_width(page) == 0
    clicked = page.evaluate(
        """() => {
          for (const link of document.querySelectorAll("h2 a, #contents a")) link.click();
          for (const field of document.querySelectorAll("input")) {
            for (const text of ["first", ""]) {
              field.value = text;
              field.dispatchEvent(new Event("input"));
            }
          }
          const buttons = [...document.querySelectorAll("th button")];
          for (const button of buttons) for (let time = 0; time < 3; time += 1) button.click();
          return buttons.length;
        }"""
    )
    assert clicked > 40 and hidden_width(page) == 0
    assert page.locator("[aria-sort]").count() == 0


def test_the_numbers_are_those_of_the_csv_files(open_report, folder):
    page = open_report()
    shown = page.evaluate(
        """() => [...document.querySelectorAll(".table")].map((box) =>
          [...box.querySelectorAll("tr")].map((row) => [...row.cells].map((cell) => cell.textContent)))"""
    )
    written = [read_table(folder, path.stem) for path in (folder / "tables").glob("*.csv")]
    assert sorted(shown) == sorted(written) and len(shown) > 7
    cells = [cell for rows in shown for row in rows[1:] for cell in row]
    assert not any("%" in cell for cell in cells)  # it is in the header or the caption

    with open(folder / "report.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "few_shot"]
    for dataset, run, _, _, knn in visible_rows(page, "summary"):
        if dataset != "average":
            found = [
                float(row["value"])
                for row in rows
                if (row["dataset"], row["run"], row["method"], row["shots"]) == (dataset, run, "knn", "4")
            ]
            low, high = (f"{100 * end:.1f}" for end in (min(found), max(found)))
            assert knn == f"{100 * sum(found) / len(found):.1f} ({low}–{high})"


def test_columns_sort_by_number_or_name_and_averages_stay_last(open_report, folder):
    page = open_report()
    head, *rows = read_table(folder, "summary")
    header = page.locator('[data-name="summary"] th')
    column = head.index("knn")
    totals = [row for row in rows if row[0] == "average"]
    assert len(totals) == 3
    for state, sign in (("descending", -1), ("ascending", 1)):
        header.nth(column).locator("button").click()
        assert header.nth(column).get_attribute("aria-sort") == state
        *found, a, b, c = visible_rows(page, "summary")
        assert [value(row[column]) for row in found] == sorted(
            (value(row[column]) for row in found), key=lambda x: sign * x
        )
        assert sorted([a, b, c]) == sorted(totals)
    header.nth(column).locator("button").click()
    assert header.nth(column).get_attribute("aria-sort") is None
    assert visible_rows(page, "summary") == rows
    header.nth(1).locator("button").focus()
    page.keyboard.press("Enter")
    names = [row[1] for row in visible_rows(page, "summary")[:-3]]
    assert names == sorted(names) and len(set(names)) == 3


def test_a_filter_keeps_the_rows_with_every_word_and_counts_them(open_report, folder):
    page = open_report()
    rows = read_table(folder, "summary")[1:]
    page.locator('[data-name="summary"] input').fill("THIRD bir")
    expected = [row for row in rows if row[:2] == ["birds", "third"]]
    assert visible_rows(page, "summary") == expected and len(expected) == 1
    assert page.locator('[data-name="summary"] output').inner_text() == f"1 of {len(rows)} rows"


def test_the_address_restores_selection_sorting_and_filters(open_report, folder):
    page = open_report()
    page.select_option("#dataset", DATASETS[1])
    page.select_option("#method", "zero_shot")
    page.locator('[data-name="summary"] input').fill("birds & ü")
    page.locator('[data-name="summary"] input').fill("birds")
    page.locator('[data-name="summary"] th button').nth(4).click()
    address, expected = page.url.partition("#")[2], visible_rows(page, "summary")
    other = open_report(fragment=f"#{address}")
    assert other.input_value("#dataset") == DATASETS[1] and other.input_value("#method") == "zero_shot"
    assert other.input_value('[data-name="summary"] input') == "birds"
    assert visible_rows(other, "summary") == expected != read_table(folder, "summary")[1:]
    other.locator("summary").click()
    other.locator("#contents a", has_text="Evaluation protocol").click()
    kept = "#protocol?" + address.partition("?")[2]  # a link keeps the state
    other.wait_for_function("(kept) => location.hash === kept", arg=kept)
    assert other.locator("#protocol").evaluate("(heading) => heading.getBoundingClientRect().top < innerHeight")


@pytest.mark.parametrize(
    "fragment", ["#?dataset=gone&summary.sort=99&summary.filter=%25", "#%E0%A4%A", "#?summary.sort=x"]
)
def test_an_address_with_unknown_values_shows_the_page_as_written(open_report, fragment):
    page = open_report(fragment=fragment)
    assert page.input_value("#dataset") == DATASETS[0] and page.locator("section").first.is_visible()


def test_a_link_to_a_hidden_section_selects_its_dataset_and_method(open_report):
    page = open_report()
    anchors = page.evaluate("[...document.querySelectorAll('h2')].map((heading) => heading.id)")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids)) and all(anchors)
    [second] = [each for each in anchors if each.startswith("few-shot-classification-") and "birds" not in each]
    for anchor in (second, "gain-over-first-zero_shot"):
        assert anchor in anchors
        other = open_report(fragment=f"#{anchor}")
        heading = other.locator(f"[id='{anchor}']")
        assert heading.is_visible()
        assert 0 <= heading.evaluate("(heading) => heading.getBoundingClientRect().top") < 300
        assert "?dataset=" in other.url or "?method=zero_shot" in other.url


def test_charts_show_their_values_to_the_pointer_and_the_keyboard(open_report, folder):
    page = open_report()
    table = read_table(folder, "few_shot_birds")
    chart = page.locator('section[data-dataset="birds"] .panel svg[aria-label="knn"]').first
    known = {
        f"{run}, {head.split()[0]} shots: {cell} %"
        for method, run, *cells in table[1:]
        for head, cell in zip(table[0][2:], cells, strict=True)
        if method == "knn"
    }
    points = json.loads(chart.get_attribute("data-hover"))
    assert {text for _, _, text in points} == known and len(known) == 6
    chart.scroll_into_view_if_needed()
    size = chart.evaluate("(svg) => [svg.clientWidth / svg.viewBox.baseVal.width]")[0]
    for x, y, text in points:
        chart.hover(position={"x": x * size, "y": y * size})
        assert page.locator("#tip").inner_text() == text and page.locator("#tip").is_visible()
    page.mouse.move(0, 0)
    assert not page.locator("#tip").is_visible()
    chart.focus()
    for _, _, text in points:
        page.keyboard.press("ArrowRight")
        assert page.locator("#tip").inner_text() == text
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_a_point_is_drawn_where_its_value_belongs(open_report):
    page = open_report()
    for chart in page.locator("section .panel svg[data-hover]").all():
        if not chart.is_visible() or chart.locator("use").count() == 0:
            continue
        points = json.loads(chart.get_attribute("data-hover"))
        drawn = chart.evaluate(
            "(svg) => [...svg.querySelectorAll('use')].map((one) => [Number(one.getAttribute('x')), "
            "Number(one.getAttribute('y'))])"
        )
        assert all(any(abs(x - a) < 0.2 and abs(y - b) < 0.2 for a, b in drawn) for x, y, _ in points)


def test_a_run_has_one_colour_everywhere(open_report):
    page = open_report()
    colors = page.evaluate(
        """() => {
          const found = {};
          for (const item of document.querySelectorAll(".legend li")) {
            const drawn = item.querySelector("[stroke]").getAttribute("stroke");
            (found[item.textContent.trim()] ??= new Set()).add(drawn);
          }
          return Object.fromEntries(Object.entries(found).map(([name, set]) => [name, [...set]]));
        }"""
    )
    runs = [colors[name] for name in RUNS]
    assert all(len(each) == 1 for each in runs) and len({each[0] for each in runs}) == 3

"""The report page and its CSV file."""

import csv
import html
import io
import json
import re

import pytest

from adapt.report import html_report
from adapt.report.charts import Line, line_chart
from adapt.report.html_report import CSV_FIELDS, write_report
from adapt.report.results_index import Run, read_runs
from tests.logged import logged

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # the browser's font draws them, not matplotlib's
HOSTILE = """<script>alert("x")</script> & 'one' "two" $\\frac{$ שלום 👩‍🚀 </style>"""
SHOTS = (1, 2, 4)
PLAIN_FIELDS = set(CSV_FIELDS) - {"run", "settings", "value"}


def few_shot(method, shots, seed, value):
    return {
        "task": "few_shot",
        "dataset": f"set {HOSTILE}",
        "dataset_fingerprint": "d0",
        "method": method,
        "transductive": False,
        "shots": shots,
        "seed": seed,
        "metric": "accuracy",
        "k": None,
        "value": value,
        "settings": {} if method == "zero_shot" else {"k": shots},
        "selection": "none",
        "logit_scale": 100.0,
        "classes": 4,
        "queries": 50,
        "support": None if method == "zero_shot" else f"s{shots}{seed}",
        "checkpoint_fingerprint": "c0",
    }


def retrieval(k):
    row = few_shot("zero_shot", 0, None, k / 20) | {"task": "retrieval", "metric": f"text→image recall@{k}", "k": k}
    return row | {"settings": {"caption": "all"}, "logit_scale": None, "queries": 8, "classes": 8, "examples": "e0"}


def run(name, shift=0.0, seeds=3):
    results = [
        few_shot(method, shots, seed, round(0.2 + 0.1 * shots + 0.013 * seed**2 + 0.02 * len(method) - shift, 4))
        for method, at in (("zero_shot", (0,)), ("knn", SHOTS))
        for shots in at
        for seed in range(seeds)
    ]
    image = {"uri": "data:image/webp;base64,AAAA", "text": HOSTILE, "match": True}
    metrics = [{"step": step, "loss": 3.0 / step, "context_temperature": 10.0**-step} for step in (1, 2, 3)]
    jobs = [{"job": "evaluate", "what": HOSTILE, "seconds": 1.25}]
    examples = {HOSTILE: [{"text": HOSTILE, "images": [image]}]}
    return Run(name, [*results, retrieval(1), retrieval(10)], examples, metrics, jobs)


@pytest.fixture(scope="module", autouse=True)
def without_figures():
    """Leave out the files of figures, which take most of the time of a report: see test_figures.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html_report, "write_figures", lambda *args, **options: None)
        yield


@pytest.fixture(scope="module")
def runs():
    return [run(f"first {HOSTILE}"), run("second", shift=0.07)]


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    return write_report(runs, tmp_path_factory.mktemp("report"), title=f"Report {HOSTILE}")


@pytest.fixture(scope="module")
def page(written):
    return written.read_text(encoding="utf-8")


def tables(page):
    """Return the cells of every table of the page, as text."""
    return [
        [
            [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)]
            for line in re.findall(r"<tr[^>]*>(.*?)</tr>", table)
        ]
        for table in re.findall(r"<table>(.*?)</table>", page, re.DOTALL)
    ]


def tables_of(page, title):
    """Return the tables of the section whose heading starts with `title`."""
    sections = re.findall(r"<section[^>]*>.*?</section>", page, re.DOTALL)
    headings = [html.unescape(re.search(r"<h2[^>]*><a[^>]*>(.*?)</a>", each)[1]) for each in sections]
    return tables(next(each for each, heading in zip(sections, headings, strict=True) if heading.startswith(title)))


def test_the_page_loads_nothing(page):
    assert page.count("<script") == 1 and "<script>" in page
    assert not re.search(r"<(link|iframe|object|embed|base|image)\b|@import|url\((?!#)|srcset|\son\w+=", page)
    assert set(re.findall(r"""<img src="(.{11})""", page)) == {"data:image/"}
    targets = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'> ]*)""", page)
    assert all(target.startswith(("#", "data:image/")) or target == "report.csv" for target in targets)


def test_hostile_names_are_shown_as_text(page):
    assert HOSTILE not in page
    shown = html.unescape(re.sub(r"<[^>]*>", "", page))
    for name in (f"Report {HOSTILE}", f"set {HOSTILE}", f"first {HOSTILE}", f"Texts of {HOSTILE}"):
        assert name in shown
    for attribute in ("alt", "title"):
        assert HOSTILE in map(html.unescape, re.findall(rf'{attribute}="([^"]*)"', page))


def test_every_mean_equals_that_of_its_rows(page, runs):
    head, *lines = tables_of(page, "Few-shot classification")[0]
    assert head == ["method", "run", "1 shot", "2 shots", "4 shots"]
    expected = []
    for method in ("zero_shot", "knn"):
        for one in runs:
            cells = []
            for shots in SHOTS:
                at = (method, 0 if method == "zero_shot" else shots)
                values = [row["value"] for row in one.results[:-2] if (row["method"], row["shots"]) == at]
                mean, low, high = (100 * each for each in (sum(values) / 3, min(values), max(values)))
                if method == "zero_shot":  # nothing is drawn: ± the error of 50 queries
                    shares = [(50 * value + 2) / 54 for value in values]
                    error = 100 * (sum(share * (1 - share) / 54 for share in shares) / 3) ** 0.5
                    cells.append(f"{mean:.1f} ± {1.96 * error:.1f}")
                else:
                    cells.append(f"{mean:.1f} ({low:.1f}–{high:.1f})")
            expected.append([method, one.name, *cells])
    assert lines == expected


def test_the_best_of_each_column_is_marked(page):
    section = page[page.index(">Few-shot classification", page.index("<section")) :]
    cells = re.findall(r'<td class="best">(.*?) [(±]', section[: section.index("</section>")])
    assert cells == ["40.2", "48.2", "68.2"]  # zero_shot 0.38, knn 0.26 + 0.1 · shots, both plus 0.013 · 5 / 3


def test_retrieval_is_listed_with_its_interval_and_chance_at_most_one(page, runs):
    lines = next(table for table in tables(page) if table[0][2] == "metric")[1:]
    expected = []
    for row in (row for row in runs[0].results if row["task"] == "retrieval"):
        share = (row["queries"] * row["value"] + 2) / (row["queries"] + 4)  # Agresti and Coull
        half_width = 1.96 * (share * (1 - share) / (row["queries"] + 4)) ** 0.5
        expected.append(f"{100 * row['value']:.1f} ± {100 * half_width:.1f}")
    assert expected[0].startswith("5.0 ± ") and expected[1].startswith("50.0 ± ")
    assert [line[3:5] for line in lines] == [[expected[0], "12.5"], [expected[1], "100.0"]] * 2
    assert "recall@10 is " + expected[1] + " % over" in html.unescape(page)


def test_the_csv_has_every_row_and_field(written, runs):
    with open(written.parent / "report.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = [(one.name, row) for one in runs for row in one.results]
    assert len(lines) == len(rows)
    for line, (name, row) in zip(lines, rows, strict=True):
        assert tuple(line) == CSV_FIELDS
        assert line["run"] == name and json.loads(line["settings"]) == row["settings"]
        assert float(line["value"]) == row["value"]
        assert all(line[field] == ("" if row.get(field) is None else str(row[field])) for field in PLAIN_FIELDS)


def test_charts_have_the_text_colour_of_the_page(page):
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    charts = [chart for chart in charts if "data-hover" in chart]  # without the swatches of legends
    assert len(charts) == 2 + 2  # accuracy by shots of two methods, and two metrics of training
    for chart in charts:
        assert "#010203" not in chart and "#000000" not in chart and "black" not in chart
        assert "currentColor" in chart
        texts = re.findall(r"<(?:text|g) [^>]*style=\"([^\"]*font[^\"]*)\"", chart)
        assert texts and all("fill: currentColor" in style for style in texts)


def test_charts_without_a_band_or_with_one_point_are_drawn():
    svg = line_chart([Line("a < b", [4], [0.5], [(0.4, 0.6)])], x_label="x", y_label="y", x_ticks=[4], percent=True)
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>") and "a &lt; b" in svg


@pytest.mark.parametrize("left", ["retrieval", "few_shot", "zero_shot", "metrics", "nothing"])
def test_a_run_with_partial_results_is_still_shown(tmp_path, left):
    whole = run("only", seeds=1)
    kept = {
        "retrieval": whole._replace(results=whole.results[-2:], metrics=[]),
        "few_shot": whole._replace(results=whole.results[:-2], examples={}),
        "zero_shot": whole._replace(results=whole.results[:1], examples={}),
        "metrics": whole._replace(results=[], examples={}),
        "nothing": Run("only", [], {}, [], []),
    }[left]
    page = write_report([kept], tmp_path, title="t").read_text(encoding="utf-8")
    assert ("Few-shot classification" in page) == (left in ("few_shot", "zero_shot"))
    assert (">Retrieval</a></h2>" in page) == (left == "retrieval")
    assert ("Learning curves" in page) == (left not in ("retrieval", "nothing"))
    assert ("±" in "".join(cell for table in tables(page) for line in table for cell in line)) == (
        left in ("retrieval", "few_shot", "zero_shot")
    )
    if left == "zero_shot":
        assert tables_of(page, "Few-shot classification")[0][1] == ["zero_shot", "38.0 ± 13.0"]
    assert ("Support sets are drawn at random with 1 seed." in page) == (left == "few_shot")


def test_missing_shots_are_dashes(tmp_path):
    other = Run("other", [few_shot("prototypes", 8, seed, 0.5) for seed in (0, 1)], {}, [], [])
    page = write_report([run("one"), other], tmp_path, title="t").read_text(encoding="utf-8")
    head, *lines = tables_of(page, "Few-shot classification")[0]
    assert head[-1] == "8 shots" and lines[1][-1] == "–"
    assert lines[-1] == ["prototypes", "other", "–", "–", "–", "50.0 (50.0–50.0)"]


def test_runs_are_read_from_the_files_of_the_jobs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no results\.jsonl\. Run `launch\.py evaluate` to write it\."):
        read_runs(tmp_path)
    folder = tmp_path / "evaluation"
    folder.mkdir()
    rows = [row | {"checkpoint": "c"} for row in run("r").results]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "examples").mkdir()
    (folder / "examples" / "e0.json").write_text("[]", encoding="utf-8")
    expected = Run("r", rows, {rows[-1]["dataset"]: []}, [], [], [], folder)
    assert read_runs(tmp_path, name="r") == [expected]
    assert read_runs(tmp_path) == [expected._replace(name="c")]


@pytest.mark.parametrize("names", [("a/b", "a_b", "a b"), ("Pets", "pets")])
def test_tables_of_runs_and_datasets_whose_names_differ_in_punctuation_have_files_of_their_own(tmp_path, names):
    runs = [run("baseline"), *(run(name, shift=0.01 * number) for number, name in enumerate(names, 1))]
    for one in runs:
        copies = [row | {"dataset": name} for name in names for row in one.results[:-2]]
        one.results[:] = copies
    page = write_report([one._replace(examples={}, metrics=[]) for one in runs], tmp_path, title="t")
    shown = tables(page.read_text(encoding="utf-8"))
    written = [list(csv.reader(io.StringIO(path.read_text("utf-8")))) for path in (tmp_path / "tables").glob("*.csv")]
    assert sorted(written) == sorted(shown)


def test_zero_shot_with_two_values_is_explained_and_identical_images_are_counted(tmp_path):
    rows = [few_shot(method, shots, seed, 0.4) for seed in (0, 1) for method, shots in (("zero_shot", 0), ("knn", 4))]
    rows[1]["identical_queries"] = 3
    others = [row | {"dataset": "without zero-shot"} for row in rows]
    whole = few_shot("zero_shot", 0, 0, 0.45) | {"task": "zero_shot", "settings": {"templates": "ensemble", "texts": 7}}
    for value, told in ((0.4, False), (0.45, True)):
        found = [*rows, whole | {"value": value, "queries": 60}]
        page = write_report([Run("r", [*found, *others], {}, [], [])], tmp_path, title="t")
        text = html.unescape(page.read_text(encoding="utf-8"))
        sentence = "zero_shot is 45.0% on all 60 query images, and 40.0% in the few-shot tables, where the images"
        assert (sentence in text) == ("in the section Zero-shot: hence two values" in text) == told
        assert "3 query images identical to an image that support sets are drawn from" in text


def test_the_baseline_is_the_run_that_all_runs_are_compared_with(tmp_path):
    others = [run(name, shift=shift) for name, shift in (("plain", 0.0), ("context", -0.05))]
    page = write_report(others, tmp_path, title="t", baseline="context").read_text(encoding="utf-8")
    assert "The difference of −5.0 points has no interval; more seeds would give one." in page  # three seeds
    assert "All runs are compared with context." in page and "Gain over context: knn" in page
    assert (tmp_path / "report.csv").read_text(encoding="utf-8").splitlines()[1].startswith("context,")
    with pytest.raises(ValueError, match=r"^--baseline=contxt is not a run of this report\. Did you mean 'context'\? "):
        write_report(others, tmp_path, title="t", baseline="contxt")
    with pytest.raises(ValueError, match=r"Known runs: plain, context\.$"):
        write_report(others, tmp_path, title="t", baseline="x")


def test_a_large_page_is_noted_with_the_way_to_a_smaller_one(tmp_path, monkeypatch):
    with logged() as messages:
        write_report([run("one")], tmp_path, title="t")
        assert not any("MB" in message for message in messages)
        monkeypatch.setattr(html_report, "LARGE_PAGE", 1000)
        path = write_report([run("one")], tmp_path, title="t")
    [note] = [message for message in messages if "MB" in message]
    assert f"{path} has {path.stat().st_size / 1e6:.1f} MB" in note and "--methods" in note

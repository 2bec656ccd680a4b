"""Charts as figures for papers: 8 points, no text over another or over the edge, one look per run."""

import io
import itertools
import re

import matplotlib.text
import pytest

from adapt.report.figures.chart import INK, Chart, LegendEntry, Look, grey_look, run_look
from adapt.report.figures.draw import draw_figure, figure_style, panel_svg, swatch, write_figures
from adapt.report.figures.panels import Curve, LinePanel, Mark, MarkedRow, MatrixPanel, RowPanel

LONG = "runs/2026-11-30/sweep/learning_rate=0.00125,batch_size=16384,context=True/export of $the$ run"
DATASETS = [f"dataset number {number} with a long name" for number in range(21)]


def lines(title, *, x=(1, 2, 4, 8, 16), runs=3, scale=1.0, **options):
    curves = [
        Curve(x, [scale * (20 + 5 * k + 2 * run) for k in range(len(x))], run_look(run), ["text"] * len(x))
        for run in range(runs)
    ]
    curves += [Curve(x, [scale * 15] * len(x), grey_look(0), band=[(scale * 12, scale * 18)] * len(x))]
    return LinePanel(title, curves, "shots", options.pop("y_label", "accuracy, %"), **options)


def row(name, number, *, ends=(-3, 12)):
    return MarkedRow(name, [Mark(5.0, *ends, run_look(number), f"{name}: +5")])


def legend(runs):
    names = [LONG.replace("run", f"run {number}") for number in range(runs)]
    return [LegendEntry(name, run_look(number)) for number, name in enumerate(names)]


SHARES = [[0.8 if x == y else 0.2 / 11 for x in range(12)] for y in range(12)]
CHARTS = {
    "one panel": Chart("a", "a", [lines("knn", x_ticks=(1, 2, 4, 8, 16))], legend(2)),
    "six methods of many runs": Chart(
        "b",
        "b",
        [lines(f"method_with_a_long_name_{each}", runs=12, x_ticks=(1, 2, 4, 8, 16)) for each in range(6)],
        legend(12),
    ),
    "dense shots": Chart("c", "c", [lines("knn", x=(*range(1, 9), 16, 100), x_ticks=(*range(1, 9), 16, 100))] * 4),
    "steps": Chart("d", "d", [lines("loss", x=(0, 250_000, 1_500_000), y_label="", scale=1e-4)] * 5, legend(1)),
    "logarithmic": Chart("e", "e", [lines("temperature", x=(100, 20_000), scale=s, log_y=True) for s in (1e-5, 1e3)]),
    "gains": Chart("f", "f", [RowPanel(LONG, [row(d, n) for d in DATASETS], "gain, points", True) for n in range(3)]),
    "two rows": Chart("g", "g", [RowPanel("one", [row(LONG, 1), row("b", 2, ends=(float("nan"),) * 2)], "gain")]),
    "confusion": Chart("h", "h", [MatrixPanel("worst", DATASETS[:12], SHARES, "predicted class", "class")]),
}


def drawn_texts(chart, monkeypatch):
    """Return the size in points of a figure and each text that is drawn in it with its font size and box."""
    found, draw = {}, matplotlib.text.Text.draw  # each text is drawn twice, first without output

    def record(text, renderer, *args, **options):
        if text.get_visible() and text.get_text().strip():
            found[text] = (text.get_text(), text.get_fontsize(), text.get_window_extent(renderer))
        return draw(text, renderer, *args, **options)

    with figure_style(chart.name):
        figure = draw_figure(chart)
        figure.savefig(io.BytesIO(), format="pdf")  # the layout is done
        figure.set_layout_engine("none")
        monkeypatch.setattr(matplotlib.text.Text, "draw", record)
        figure.savefig(io.BytesIO(), format="pdf")
    return [72 * inches for inches in figure.get_size_inches()], list(found.values())


@pytest.mark.parametrize("name", CHARTS)
def test_no_text_overlaps_another_or_the_edge_and_all_have_eight_points(name, monkeypatch):
    (width, height), texts = drawn_texts(CHARTS[name], monkeypatch)
    assert round(width) in (243, 486)  # a column or a page: 3.375 or 6.75 inches
    assert len(texts) > 6 and {size for _, size, _ in texts} == {8}
    for text, _, box in texts:
        assert box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= width + 0.5 and box.y1 <= height + 0.5, text
    for (first, _, a), (second, _, b) in itertools.combinations(texts, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 0.5 or down <= 0.5, (first, second)


def test_figures_are_written_as_svg_and_pdf_the_same_each_time(tmp_path):
    for folder in ("a", "b"):
        write_figures(CHARTS["one panel"], tmp_path / folder, name="chart")
    for ending, beginning in (("svg", b"<?xml"), ("pdf", b"%PDF-")):
        first, second = ((tmp_path / folder / f"chart.{ending}").read_bytes() for folder in ("a", "b"))
        assert first == second and first.startswith(beginning)
    svg = (tmp_path / "a" / "chart.svg").read_text(encoding="utf-8")
    assert ">shots</text>" in svg and "Type3" not in (tmp_path / "a" / "chart.pdf").read_bytes().decode("latin-1")


def test_the_first_36_runs_have_different_looks_and_none_is_grey():
    looks = [run_look(number) for number in range(36)]
    assert len(set(looks)) == 36 and run_look(36) == run_look(0)
    assert not {look.color for look in looks} & {grey_look(0).color}
    for look in (*looks, grey_look(1), Look(INK, "", "o", False)):
        assert swatch(look).startswith("<svg") and look.color in swatch(look)


def test_names_keep_their_digits_and_signs_in_the_page():
    svg = panel_svg(RowPanel("t", [row("lr=0.00125 <b>", 0)], "gain"), name="x")
    assert ">lr=0.00125 &lt;b&gt;</text>" in svg
    assert not re.search(r' [dxy]="[^"]*\.\d{3}', svg)  # nothing needs a thousandth of a point

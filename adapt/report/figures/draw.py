"""Drawing of charts: small SVG panels for the page, and whole figures of 8 points for papers."""

from __future__ import annotations

import html
import io
import json
import math
import pathlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib

from adapt.report.figures.chart import FONT_SIZE, INK, Chart, LegendEntry, Look, Panel, shorten
from foundation.files.atomic import atomic_file

_WIDER, _HIGHER = 1.4, 1.23  # a panel of the page, compared with that of a paper
_PAPER_WIDTH = 6.75  # inches of a page of text; half of it is a column
_CHARACTER = 0.62 * FONT_SIZE
_HANDLE = 34  # points of a legend entry without its text
_LEGEND_LINE = 0.17  # inches


def panel_svg(panel: Panel, *, name: str) -> str:
    """Return a panel as an `<svg>` element in the text colour of the page.

    `data-hover` has `[x, y, text]` of each point in units of the view box; `name` makes the ids of the element unique.
    """
    from matplotlib.figure import Figure

    with figure_style(name):
        figure = Figure(figsize=(_WIDER * panel.width, _HIGHER * panel.height), layout="constrained")
        axes = figure.add_subplot()
        hovers = panel.draw(axes)
        _finish(axes, x_label=panel.x_label, y_label=panel.y_label)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        width, height = (72 * inches for inches in figure.get_size_inches())
        places = axes.transData.transform([(hover.x, hover.y) for hover in hovers]) * 72 / figure.dpi if hovers else []
    points = [
        [round(float(x), 1), round(float(height - y), 1), hover.text]
        for (x, y), hover in zip(places, hovers, strict=True)
    ]
    svg = _compact(buffer.getvalue()).replace(INK, "currentColor")
    label = html.escape(panel.title, quote=True)
    data = html.escape(json.dumps(points, ensure_ascii=False), quote=True)
    opening = (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" tabindex="0" aria-label="{label}" data-hover="{data}"'
    )
    return re.sub(r"<svg[^>]*", lambda _: opening, svg, count=1)


def draw_figure(chart: Chart) -> Any:
    """Return a chart as a figure of matplotlib, as wide as a column or a page of a paper; all text has 8 points.

    Call it, and save the figure, within `figure_style`.
    """
    from matplotlib.figure import Figure

    panel_width = max(panel.width for panel in chart.panels)
    columns = max(1, min(len(chart.panels), int(_PAPER_WIDTH // panel_width)))
    rows = math.ceil(len(chart.panels) / columns)
    width = _PAPER_WIDTH if columns * panel_width > _PAPER_WIDTH / 2 else _PAPER_WIDTH / 2
    room = int((72 * width - _HANDLE) / _CHARACTER)
    entries = [entry._replace(label=shorten(entry.label, room)) for entry in chart.legend]
    longest = max((len(entry.label) for entry in entries), default=0)
    per_line = max(1, int(72 * width // (longest * _CHARACTER + _HANDLE)))
    height = rows * max(panel.height for panel in chart.panels) + _LEGEND_LINE * math.ceil(len(entries) / per_line)
    figure = Figure(figsize=(width, height), layout="constrained")
    for number, panel in enumerate(chart.panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        panel.draw(axes)
        if len(chart.panels) > 1:
            axes.set_title(shorten(panel.title, int(panel.plot_share * 72 * width / columns / _CHARACTER)))
        below = number + columns >= len(chart.panels)
        _finish(axes, x_label=panel.x_label if below else "", y_label="" if number % columns else panel.y_label)
    if entries:
        handles = [_handle(entry) for entry in entries]
        figure.legend(handles=handles, loc="outside lower center", ncols=per_line, frameon=False)
    return figure


def write_figures(chart: Chart, folder: pathlib.Path, *, name: str) -> None:
    """Write `name.svg` and `name.pdf`."""
    with figure_style(name):
        figure = draw_figure(chart)
        for ending, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            with atomic_file(folder / f"{name}.{ending}") as path:
                figure.savefig(path, format=ending, metadata=metadata)
            figure.set_layout_engine("none")  # the layout is that of the first file


def swatch(look: Look) -> str:
    """Return the look of a legend entry as a small `<svg>` element."""
    dashes = {"--": "5 3", ":": "1.5 2.5", "-.": "5 2 1.5 2"}.get(look.dashes)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    line = f'<path d="M1 6H27" stroke="{look.color}" stroke-width="2"{dashed}/>' if look.dashes else ""
    shapes = {
        "o": '<circle cx="14" cy="6" r="3.4"{}/>',
        "s": '<path d="M11 3h6v6h-6z"{}/>',
        "^": '<path d="M14 2l4 7.4h-8z"{}/>',
        "D": '<path d="M14 1.6L18.4 6 14 10.4 9.6 6z"{}/>',
        "v": '<path d="M14 10l4-7.4h-8z"{}/>',
        "P": '<path d="M12.6 2h2.8v2.6H18v2.8h-2.6V10h-2.8V7.4H10V4.6h2.6z"{}/>',
        "X": '<path d="M11.5 2L14 4.5 16.5 2 18 3.5 15.5 6 18 8.5 16.5 10 14 7.5 11.5 10 10 8.5 12.5 6 10 3.5z"{}/>',
        "<": '<path d="M10 6l7.4-4v8z"{}/>',
        ">": '<path d="M18 6l-7.4-4v8z"{}/>',
    }
    fill = look.color if look.filled else "white"
    shape = shapes[look.marker].format(f' fill="{fill}" stroke="{look.color}"') if look.marker else ""
    return f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">{line}{shape}</svg>'


def _handle(entry: LegendEntry) -> Any:
    from matplotlib.lines import Line2D

    look = entry.look
    face = look.color if look.filled else "white"
    return Line2D(
        [],
        [],
        label=entry.label,
        color=look.color,
        linestyle=look.dashes or "none",
        marker=look.marker,
        markersize=4,
        markerfacecolor=face,
        linewidth=1.3,
    )


def _finish(axes: Any, *, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)


@contextmanager
def figure_style(name: str) -> Iterator[None]:
    """Set matplotlib's defaults, without warnings on glyphs that its font lacks: browsers have them."""
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "pdf.fonttype": 42,
        "font.family": "sans-serif",
        "font.size": FONT_SIZE,
        **dict.fromkeys(("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), FONT_SIZE),
        "legend.fontsize": FONT_SIZE,
        "text.parse_math": False,  # a "$" in a name does not start a formula
        "axes.grid": True,
        "axes.linewidth": 0.6,
        "grid.color": INK,
        "grid.alpha": 0.12,
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def _compact(svg: str) -> str:
    """Return the `<svg>` element without what the page does not need: ids, styles, digits, its own fonts."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"|font-family: [^;"]*; ?| transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r"\s+", " ", svg).replace("> <", "><").strip()
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    while (fewer := re.sub(r"<(g|defs)></\1>|<(g|defs)/>", "", svg)) != svg:
        svg = fewer
    return svg

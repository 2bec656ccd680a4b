"""Line and point charts as inline SVG in the text colour of the page, light or dark."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib

# Replaced by `currentColor`, so that axes and labels have the text colour of the page.
_INK = "#010203"
_LINE = 9.0  # height of a name, in points
_LEGEND = 5  # lines up to which the legend is inside the chart, else below it
_HALF = 32  # characters that fit in half the width of the chart
_STYLES = ("-", "--", ":", "-.")  # of the lines of one color
_GREY = "#8d929c"  # of baselines
# At least 3:1 on white and on the dark page.
COLORS = ("#2f7ed8", "#d96d1f", "#2a9d6f", "#b0479f", "#a98600", "#d1495b", "#6c8a9e", "#8f5d33", "#2b96a9")


class Line(NamedTuple):
    """A line through points `x`, `y`, with a band between the ends `band` of their intervals (empty for none).

    `style` chooses its dashes. A line with a `grey` number is grey, without markers, and the number chooses its dashes.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[tuple[float, float]] = ()
    color: int = 0
    style: int = 0
    grey: int | None = None


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] = (),
    percent: bool = False,
    log_y: bool = False,
) -> str:
    """Return a chart of lines as an `<svg>` element; `x_ticks` makes the x axis logarithmic with these ticks."""

    def draw(axes: Any) -> None:
        for line in lines:
            color = COLORS[line.color % len(COLORS)] if line.grey is None else _GREY
            dashes = _STYLES[line.style % len(_STYLES)] if line.grey is None else _STYLES[line.grey % len(_STYLES)]
            axes.plot(
                line.x,
                line.y,
                color=color,
                label=line.label,
                linestyle=dashes,
                marker="o" if x_ticks and line.grey is None and len(line.x) > 1 else None,
                markersize=3.5,
                linewidth=1.6 if line.grey is None else 1.2,
            )
            if len(line.band):
                low, high = zip(*line.band, strict=True)
                axes.fill_between(line.x, low, high, color=color, alpha=0.18, linewidth=0)
        if x_ticks:
            _log_axis(axes, x_ticks)
        if log_y:
            axes.set_yscale("log")

    return _chart(draw, x_label=x_label, y_label=y_label, percent=percent, legend=True)


class Points(NamedTuple):
    """Named points `x`, `y` of one colour; `bars` are the ends of their intervals of y (empty for none)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str]
    bars: Sequence[tuple[float, float]] = ()
    color: int = 0


def point_chart(
    points: Sequence[Points], *, x_label: str, y_label: str, log_x: bool = False, zero: bool = False
) -> str:
    """Return a chart of named points as an `<svg>` element; `zero` draws the line y = 0."""

    def draw(axes: Any) -> None:
        if zero:
            axes.axhline(0, color=_INK, alpha=0.5, linewidth=0.8)
        values = [y for group in points for y in (*group.y, *itertools.chain(*group.bars))]
        span = max(values) - min(values)
        places = [(x, y) for group in points for x, y in zip(group.x, group.y, strict=True)]
        lifts = iter(_lifts(places, span))
        for group in points:
            color = COLORS[group.color % len(COLORS)]
            if len(group.bars):
                ends = [(y - low, high - y) for y, (low, high) in zip(group.y, group.bars, strict=True)]
                axes.errorbar(group.x, group.y, yerr=list(zip(*ends, strict=True)), fmt="none", ecolor=color, alpha=0.5)
            axes.plot(group.x, group.y, "o", color=color, label=group.label or None, markersize=5)
            for x, y, name in zip(group.x, group.y, group.names, strict=True):
                note = axes.annotate(name, (x, y), xytext=(4, next(lifts)), textcoords="offset points", fontsize=8)
                note.set_parse_math(False)
        axes.margins(0.15)  # room for the names
        if log_x:
            _log_axis(axes, sorted({x for group in points for x in group.x}))

    return _chart(draw, x_label=x_label, y_label=y_label, legend=any(group.label for group in points))


def _lifts(points: Sequence[tuple[float, float]], span: float) -> list[float]:
    """Return the offset of each name above its point, in points, such that names of neighbours do not overlap.

    `span` is the range of y in the chart.
    """
    height = 150 / (span or 1.0)  # points per unit of y, roughly
    lifts, placed = [4.0] * len(points), []
    for number in sorted(range(len(lifts)), key=lambda number: points[number][1]):
        x, y = points[number][0], height * points[number][1]
        line = y + 4
        for other, taken in sorted(placed, key=lambda each: each[1]):
            if abs(x - other) <= 0.45 * max(abs(x), abs(other)) and abs(line - taken) < _LINE:
                line = taken + _LINE
        placed.append((x, line))
        lifts[number] = line - y
    return lifts


def _log_axis(axes: Any, ticks: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _chart(
    draw: Callable[[Any], None], *, x_label: str, y_label: str, percent: bool = False, legend: bool = False
) -> str:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "font.family": "sans-serif",
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if legend:
            labels = axes.get_legend_handles_labels()[1]
            columns = 2 if max(map(len, labels), default=0) <= _HALF else 1
            where = None
            if len(labels) > _LEGEND:
                where = figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
                figure.set_figheight(3.4 + 0.2 * math.ceil(len(labels) / columns))
            for text in (where or axes.legend(frameon=False, fontsize=9)).get_texts():
                text.set_parse_math(False)  # a "$" in a name does not start a formula
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")

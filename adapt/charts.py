"""Line charts as inline SVG that follows the page's text colour, light or dark."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib

# Replaced by `currentColor`, so that axes and labels take the colour of the page around them.
_INK = "#010203"
COLORS = ("#2f7ed8", "#e07b39", "#2a9d6f", "#b0479f", "#c9a400", "#d1495b")


class Line(NamedTuple):
    """One line: points `x`, `y`, and half-widths of a band around it (empty for none)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[float] = ()
    color: int = 0
    dashed: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] = (),
    percent: bool = False,
    log_y: bool = False,
) -> str:
    """Returns the chart as an `<svg>` element. `x_ticks` makes the x axis logarithmic with these ticks."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, PercentFormatter

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
        for line in lines:
            color = COLORS[line.color % len(COLORS)]
            axes.plot(
                line.x,
                line.y,
                color=color,
                label=line.label,
                linestyle="--" if line.dashed else "-",
                marker="o" if x_ticks and len(line.x) > 1 else None,
                markersize=3.5,
                linewidth=1.6,
            )
            if len(line.band):
                low = [y - b for y, b in zip(line.y, line.band, strict=True)]
                high = [y + b for y, b in zip(line.y, line.band, strict=True)]
                axes.fill_between(line.x, low, high, color=color, alpha=0.18, linewidth=0)
        if x_ticks:
            axes.set_xscale("log", base=2)
            axes.set_xticks(x_ticks, [f"{tick:g}" for tick in x_ticks])
            axes.xaxis.set_minor_locator(NullLocator())
        if log_y:
            axes.set_yscale("log")
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        for text in axes.legend(frameon=False, fontsize=9).get_texts():
            text.set_parse_math(False)  # a "$" in a name is a dollar
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")

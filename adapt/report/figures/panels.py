"""The panels of charts: lines with bands, rows of points with intervals, and a matrix."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from adapt.report.charts import COLORS
from adapt.report.figures.chart import FONT_SIZE, INK, Hover, Look, shorten

_CHARACTER = 0.62 * FONT_SIZE  # width of a character in points, with room
_NAME = 24  # characters of a name at an axis
_DARKEST = 0.6  # opacity of a cell, such that its number stays legible


class Curve(NamedTuple):
    """A line through points, with a band between the ends of their intervals (NaN or empty: none).

    `texts` describe the points. A `faint` curve is drawn thin, without markers, band and texts.
    """

    x: Sequence[float]
    y: Sequence[float]
    look: Look
    texts: Sequence[str] = ()
    band: Sequence[tuple[float, float]] = ()
    faint: bool = False


@dataclasses.dataclass(frozen=True)
class LinePanel:
    """Curves; `x_ticks` makes the x axis logarithmic with these ticks, `y_range` is shared with other panels."""

    title: str
    curves: Sequence[Curve]
    x_label: str
    y_label: str
    x_ticks: Sequence[float] = ()
    y_range: tuple[float, float] | None = None
    log_y: bool = False
    width: float = 1.68
    height: float = 1.65
    plot_share: float = 0.65

    def draw(self, axes: Any) -> list[Hover]:
        """Draw the curves; return the texts of their points."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

        for curve in self.curves:
            look = curve.look
            axes.plot(
                curve.x,
                curve.y,
                color=look.color,
                linestyle=look.dashes,
                marker=None if curve.faint else look.marker,
                markersize=3,
                linewidth=0.7 if curve.faint else 1.3,
                alpha=0.4 if curve.faint else 1,
            )
            if len(curve.band) and not curve.faint:
                low, high = zip(*curve.band, strict=True)
                axes.fill_between(curve.x, low, high, color=look.color, alpha=0.18, linewidth=0)
        if self.y_range:
            axes.set_ylim(*self.y_range)
        values = [y for curve in self.curves for y in curve.y]
        if self.log_y and min(values) > 0:
            axes.set_yscale("log")
        if not self.log_y or max(values) < 30 * min(values):
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if self.x_ticks:
            self._shots_axis(axes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
        return [
            Hover(float(x), float(y), text)
            for curve in self.curves
            if not curve.faint
            for x, y, text in zip(curve.x, curve.y, curve.texts, strict=False)
        ]

    def _shots_axis(self, axes: Any) -> None:
        from matplotlib.ticker import NullLocator

        axes.set_xscale("log", base=2)
        places = [math.log2(tick) for tick in self.x_ticks]
        room = _CHARACTER * (len(f"{max(self.x_ticks):g}") + 1)  # points per label
        unit = 72 * 0.65 * self.width / max(places[-1] - places[0], 1)  # points per doubling
        labels, left = [], math.inf
        for tick, place in zip(reversed(self.x_ticks), reversed(places), strict=True):
            fits = (left - place) * unit >= room
            labels.append(f"{tick:g}" if fits else "")
            left = place if fits else left
        axes.set_xticks(self.x_ticks, reversed(labels))
        axes.xaxis.set_minor_locator(NullLocator())


class Mark(NamedTuple):
    """A point of a row with the ends of its interval, NaN for none."""

    x: float
    low: float
    high: float
    look: Look
    text: str


class MarkedRow(NamedTuple):
    """A name with its points, which are joined by a line."""

    name: str
    marks: Sequence[Mark]


@dataclasses.dataclass(frozen=True)
class RowPanel:
    """Rows from top to bottom; `zero` draws the line x = 0."""

    title: str
    rows: Sequence[MarkedRow]
    x_label: str
    zero: bool = False
    x_range: tuple[float, float] | None = None
    y_label: str = ""
    width: float = 3.3
    plot_share: float = 0.45

    @property
    def height(self) -> float:
        """The height in inches."""
        return 0.6 + 0.17 * len(self.rows)

    def draw(self, axes: Any) -> list[Hover]:
        """Draw the rows; return the texts of their points."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        found = []
        if self.zero:
            axes.axvline(0, color=INK, alpha=0.5, linewidth=0.8)
        for place, row in enumerate(self.rows):
            if len(row.marks) > 1:
                axes.plot([mark.x for mark in row.marks], [place] * len(row.marks), color=INK, alpha=0.35, linewidth=1)
            for mark in row.marks:
                color = mark.look.color
                if not math.isnan(mark.low):
                    axes.plot([mark.low, mark.high], [place, place], color=color, alpha=0.5, linewidth=1.6)
                face = color if mark.look.filled else "white"
                axes.plot([mark.x], [place], mark.look.marker or "o", color=color, markerfacecolor=face, markersize=4)
                found.append(Hover(mark.x, place, mark.text))
        axes.set_yticks(range(len(self.rows)), [shorten(row.name, _NAME) for row in self.rows])
        axes.set_ylim(len(self.rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
        if self.x_range:
            axes.set_xlim(*self.x_range)
        return found


@dataclasses.dataclass(frozen=True)
class MatrixPanel:
    """Shares `[rows, columns]`, 0 to 1, as cells whose opacity grows with the share."""

    title: str
    names: Sequence[str]
    shares: Sequence[Sequence[float]]
    x_label: str
    y_label: str
    plot_share: float = 0.6

    @property
    def width(self) -> float:
        """The width in inches."""
        return 1.6 + 0.3 * len(self.names)

    @property
    def height(self) -> float:
        """The height in inches."""
        return 1.6 + 0.22 * len(self.names)

    def draw(self, axes: Any) -> list[Hover]:
        """Draw the cells with their percentages; return a text for each."""
        from matplotlib.patches import Rectangle

        found, size = [], len(self.names)
        for y, row in enumerate(self.shares):
            for x, share in enumerate(row):
                color = COLORS[2] if x == y else COLORS[1]
                axes.add_patch(
                    Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, alpha=_DARKEST * share, linewidth=0)
                )
                percent = f"{100 * share:.0f}"
                if percent != "0":
                    axes.text(x, y, percent, ha="center", va="center")
                found.append(Hover(x, y, f"{self.names[y]}: {percent} % predicted as {self.names[x]}"))
        names = [shorten(name, _NAME) for name in self.names]
        axes.set_xticks(range(size), names, rotation=90)
        axes.set_yticks(range(size), names)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        return found


def _short_number(value: float, _: int) -> str:
    """Return a step as text: 500, 20k, 1.5M."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"

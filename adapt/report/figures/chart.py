"""Charts of a report: panels side by side that share a legend, for the page and for papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from adapt.report.charts import COLORS

DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GREY = "#8d929c"  # of baselines
INK = "#010203"  # replaced by the text colour of the page
FONT_SIZE = 8  # points


class Hover(NamedTuple):
    """A text that is shown when the pointer is near the point `x`, `y` of the data."""

    x: float
    y: float
    text: str


class Look(NamedTuple):
    """The look of a run, or of a baseline, wherever it is drawn."""

    color: str
    dashes: str = "-"
    marker: str | None = None
    filled: bool = True


class LegendEntry(NamedTuple):
    """A name with its look."""

    label: str
    look: Look


class Panel(Protocol):
    """One plot of a chart; `width` and `height` are in inches, `plot_share` is the width without the labels of y."""

    title: str
    width: float
    height: float
    x_label: str
    y_label: str
    plot_share: float

    def draw(self, axes: Any) -> list[Hover]:
        """Draw on the axes of matplotlib; return the texts for the pointer."""


class Chart(NamedTuple):
    """Panels with one legend; `name` is that of the files, `title` describes the chart for readers without pictures."""

    name: str
    title: str
    panels: Sequence[Panel]
    legend: Sequence[LegendEntry] = ()


def run_look(number: int) -> Look:
    """Return the look of a run by its place in the report: each of the first 36 is different."""
    turn, color = divmod(number, len(COLORS))
    return Look(COLORS[color], DASHES[turn % len(DASHES)], MARKERS[number % len(MARKERS)])


def grey_look(number: int) -> Look:
    """Return the look of a baseline."""
    return Look(GREY, DASHES[number % len(DASHES)])


def shorten(text: str, longest: int) -> str:
    """Return a text of at most `longest` characters, with `…` for its middle."""
    if len(text) <= longest:
        return text
    tail = (longest - 1) // 3
    return f"{text[: longest - 1 - tail]}…{text[len(text) - tail :]}"

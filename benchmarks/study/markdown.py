"""Numbers and tables as the study's texts show them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapt.report.tables import Cell, ReportTable


def percent(value: float) -> str:
    """Return 0.123 as 12.3, and NaN as a dash."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def points(mean: float, half_width: float = math.nan) -> str:
    """Return a difference of accuracies in points: 0.012 ± 0.003 as +1.2 ± 0.3; without the interval if it is NaN."""
    return f"{100 * mean:+.1f}" + ("" if math.isnan(half_width) else f" ± {100 * half_width:.1f}")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return ReportTable("", "", columns, [[Cell(text) for text in row] for row in rows]).to_markdown().splitlines()

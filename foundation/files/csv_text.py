"""CSV files to be opened in spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

_FORMULA = tuple("=+-@\t\r＝＋－＠")  # beginnings that spreadsheets take for a formula, also in full width
_NUMBER = r"[+−-]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?%?"
# A number, alone or with its uncertainty: "-0.5", "+2.0 ± 0.5", "+2.0 [-1.0, +5.0]".
_NUMERIC = re.compile(
    rf"{_NUMBER}|[+-](inf|nan)|{_NUMBER} ± {_NUMBER}|{_NUMBER} \[{_NUMBER}, {_NUMBER}\]", re.IGNORECASE
)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a header and rows as CSV, with names that a spreadsheet would run as formulas marked as text.

    Such a cell gets an apostrophe in front (OWASP, CSV injection); numbers stay numbers.
    """
    return "".join(_line([_as_text(cell) for cell in row]) for row in (header, *rows))


def _line(cells: list[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)  # ends in \r\n; with \n alone, it would leave \r in a cell without quotes
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _as_text(cell: object) -> object:
    if isinstance(cell, str) and cell.startswith(_FORMULA) and not _NUMERIC.fullmatch(cell):
        return "'" + cell
    return cell

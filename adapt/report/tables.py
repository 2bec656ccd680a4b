"""A table of a report in three formats: CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from foundation.files.csv_text import csv_text

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "−": "$-$",
}
_MARKDOWN = {"|": r"\|", "<": "&lt;", ">": "&gt;", "\n": " ", "*": r"\*", "`": r"\`", "[": r"\["}


class Cell(NamedTuple):
    """A text with a mark: "best", "near" (within the interval of the best), "grey" (a baseline) or "" (none).

    `heat`, 0 to 1, is the strength of the colour behind it, None for none.
    """

    text: str
    mark: str = ""
    heat: float | None = None


class ReportTable(NamedTuple):
    """Columns and rows of cells; the first `labels` cells of a row are its labels, `name` that of the files.

    The last `totals` rows are averages, which stay at the end when the page sorts the table.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: int = 1
    totals: int = 0

    def to_csv(self) -> str:
        """Return the table as CSV."""
        return csv_text(self.columns, ([cell.text for cell in row] for row in self.rows))

    def to_markdown(self) -> str:
        """Return the table as Markdown, with "best" cells in bold."""
        lines = [[_escape(column, _MARKDOWN) for column in self.columns], ["---"] * len(self.columns)]
        for row in self.rows:
            texts = [_escape(cell.text, _MARKDOWN) for cell in row]
            lines.append([f"**{text}**" if c.mark == "best" else text for text, c in zip(texts, row, strict=True)])
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)

    def to_latex(self) -> str:
        """Return the table as a LaTeX tabular with booktabs rules, "best" cells in bold and "near" ones underlined."""
        wrap = {"best": r"\textbf{%s}", "near": r"\underline{%s}", "grey": "%s", "": "%s"}
        lines = [" & ".join(_escape(column, _LATEX) for column in self.columns) + r" \\", r"\midrule"]
        for number, row in enumerate(self.rows):
            if self.totals and number == len(self.rows) - self.totals:
                lines.append(r"\midrule")
            lines.append(" & ".join(wrap[cell.mark] % _escape(cell.text, _LATEX) for cell in row) + r" \\")
        begin = r"\begin{tabular}{" + "l" * self.labels + "r" * (len(self.columns) - self.labels) + "}"
        return "\n".join([begin, r"\toprule", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _escape(text: str, replacements: dict[str, str]) -> str:
    return "".join(replacements.get(character, character) for character in text)

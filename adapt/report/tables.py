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
    """A text with a mark: "best", "near" (within the interval of the best), "grey" (a baseline) or "" (none)."""

    text: str
    mark: str = ""


class ReportTable(NamedTuple):
    """Columns and rows of cells; the first cell of a row is its label, `name` that of the files."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

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
        for row in self.rows:
            lines.append(" & ".join(wrap[cell.mark] % _escape(cell.text, _LATEX) for cell in row) + r" \\")
        begin = r"\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}"
        return "\n".join([begin, r"\toprule", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _escape(text: str, replacements: dict[str, str]) -> str:
    return "".join(replacements.get(character, character) for character in text)

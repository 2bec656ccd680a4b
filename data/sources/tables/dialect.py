"""Recognise how a table is written: delimiter, line ends, escapes, and what stands before its header."""

from __future__ import annotations

import re
from typing import NamedTuple

from data.sources.tables.rows import DELIMITERS, Dialect, RowReader

SAMPLE_BYTES = 1 << 18
_SAMPLE_ROWS = 300
_BOM = b"\xef\xbb\xbf"
_EXCEL = re.compile(rb'"?sep=([^\r\n])"?\r?\n')  # the first line, as Excel writes and reads it


class Recognised(NamedTuple):
    """A dialect, and the names of the columns; JSON lines have none."""

    dialect: Dialect
    columns: list[str]


class _Score(NamedTuple):
    """The fit of a reading; the larger the better."""

    named_columns: int  # of the two that a table needs
    regular: float  # share of rows with as many fields as the header, if that has several
    default: bool


def recognise(
    sample: bytes, *, path: str, image_keys: tuple[str, ...], text_keys: tuple[str, ...], whole: bool
) -> Recognised:
    """Return dialect and columns of a table from its first bytes; `whole` states that they are the whole file.

    The delimiter is the one that splits the header into columns of `image_keys` and `text_keys`, then the one that
    gives the most rows of the header's length, then that of the file name. Raises `ValueError` for UTF-16.
    """
    start = 3 if sample.startswith(_BOM) else 0
    if b"\0" in sample[:2] or sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is not UTF-8 but UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 {path} > new file")
    first_end = re.search(rb"\r\n|\r|\n", sample)
    line_end = b"\r" if first_end and first_end[0] == b"\r" else b"\n"
    if path.lower().endswith((".jsonl", ".json")):
        return Recognised(Dialect(line_end=line_end, start=start), [])
    delimiters = DELIMITERS
    stated = _EXCEL.match(sample, start)
    if stated:
        delimiters, start = (stated[1].decode("latin-1"),), stated.end()
    by_name = "\t" if path.lower().endswith(".tsv") else ","
    content = sample[start:] if whole else sample[start : sample.rfind(line_end) + 1]
    scores: dict[Dialect, _Score] = {}
    headers: dict[Dialect, list[str]] = {}
    for delimiter in delimiters:
        for escapes in (False, True) if b"\\" in content else (False,):
            dialect = Dialect(delimiter, line_end, escapes, start)
            rows = _first_rows(content, dialect)
            headers[dialect] = header = [name.strip() for name in rows[0]] if rows else []
            named = sum(any(key in header for key in keys) for keys in (image_keys, text_keys))
            regular = sum(len(row) == len(header) > 1 for row in rows[1:]) / max(len(rows) - 1, 1)
            scores[dialect] = _Score(named, regular, delimiter == by_name)
    best = max(scores, key=scores.__getitem__)  # the first of equals: without escapes
    return Recognised(best, headers[best])


def _first_rows(content: bytes, dialect: Dialect) -> list[list[str]]:
    """Return the fields of the first rows, read strictly in one dialect; a row that does not follow it is empty."""
    reader = RowReader(dialect)
    rows: list[list[str]] = []
    position = 0
    content += b"" if content.endswith(dialect.line_end) else dialect.line_end
    while position < len(content) and len(rows) < _SAMPLE_ROWS:
        row = reader.read_strictly(content, position)
        if row.fields != [b""] or not row.regular:
            rows.append([name.decode("utf-8", "replace") for name in row.fields] if row.regular else [])
        position = row.end
    return rows

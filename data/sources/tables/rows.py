"""Split the text of a table into rows and fields, also where quotes are not balanced."""

from __future__ import annotations

import contextlib
import csv
import re
from typing import NamedTuple

from data.sources.image_folders import SUFFIXES as IMAGE_SUFFIXES

DELIMITERS = (",", "\t", ";", "|")
_BOM = "\ufeff"  # also inside of files that were joined
MAX_FIELD = 1 << 24  # bytes; a quote that is not closed within them is text


class Dialect(NamedTuple):
    """The way the fields of a table are written; the header begins at byte `start`."""

    delimiter: str = ","
    line_end: bytes = b"\n"
    escapes: bool = False  # backslashes escape quotes and delimiters, as MySQL writes them
    start: int = 0


class Row(NamedTuple):
    """The fields of a row, and the position after its line end. `regular` is False if a quote is taken as text."""

    fields: list[bytes]
    end: int
    regular: bool


class Incomplete(Exception):
    """More text is needed to find the end of a row."""


class _Style(NamedTuple):
    """Patterns of the text inside of quotes, of a field without quotes, and of the escapes in both."""

    quoted: re.Pattern[bytes]
    plain: re.Pattern[bytes]
    quoted_escapes: re.Pattern[bytes]
    plain_escapes: re.Pattern[bytes] | None


class RowReader:
    """Read rows of `columns` fields at any position of a text.

    A field is quoted (RFC 4180) if a quote opens it and one that a delimiter or a line end follows closes it; other
    quotes are text. A quoted field may span lines, unless these are rows themselves: then its quote is text, too. What
    a row is: it has as many fields as the header, and in the column `image_column` a path of the same kind.
    """

    def __init__(self, dialect: Dialect, columns: int | None = None, image_column: int | None = None):
        self._columns, self._image_column = columns, image_column
        self.line_end, self._delimiter = dialect.line_end, dialect.delimiter.encode("latin-1")
        d, end = re.escape(self._delimiter), re.escape(dialect.line_end)
        self._crlf = rb"\r?\n" if dialect.line_end == b"\n" else end
        doubled = re.compile(rb'"(")')
        plain = re.compile(rb"[^%b%b]*+" % (d, end))
        rfc = _Style(re.compile(rb'(?:[^"]++|"")*+'), plain, doubled, None)
        escapes = re.compile(rb'\\([\\"%b\r\n])' % d)
        escaped = _Style(
            re.compile(rb'(?:[^"\\]++|\\.|"")*+', re.DOTALL),
            re.compile(rb"(?:[^%b%b\\]++|\\.)*+" % (d, end), re.DOTALL),
            re.compile(rb'(?:\\(?=[\\"%b\r\n])|"(?="))(.)' % d, re.DOTALL),
            escapes,
        )
        self._styles = (escaped, rfc) if dialect.escapes else (rfc, escaped)
        self._strict = self._styles[0]
        self._one_line = _Style(re.compile(rb'(?:[^"%b]++|"")*+' % end), plain, doubled, None)
        self._open = re.compile(rb' *+"')
        self._close = re.compile(rb'" *+(?=%b|%b)' % (d, self._crlf))
        self._separator, self._newline = dialect.delimiter, dialect.line_end.decode()
        separator = re.escape(dialect.delimiter)
        self._odd = re.compile(rf'\\|(?:^|{separator}) +"|" +(?:{separator}|$)')  # what `csv` reads otherwise
        inside = rb'(?:[^"\\%b]++|\\[^%b]|"")*+' % (end, end) if dialect.escapes else rb'(?:[^"%b]++|"")*+' % end
        outside = rb"(?:[^%b%b\\]++|\\[^%b])*+" % (d, end, end) if dialect.escapes else rb"[^%b%b]*+" % (d, end)
        field = rb'(?: *+"%b" *+(?=%b|%b)|(?! *")%b)' % (inside, d, self._crlf, outside)
        self._regular_line = re.compile(rb"(?:%b%b)*+%b%b" % (field, d, field, self._crlf))

    def is_regular_line(self, text: bytes, position: int) -> bool:
        """Return whether a line is a row without odd quotes, whatever follows it."""
        return self._regular_line.match(text, position) is not None

    def read(self, text: bytes, position: int = 0, *, complete: bool = True) -> Row:
        """Return the row at a position. The text ends in a line end; `complete` states that no text follows it.

        Raises `Incomplete` if the row may depend on the text that follows.
        """
        best = None
        for style in self._styles:
            row = self._parse(text, position, style, complete=complete)
            if row.regular and not self._swallows_rows(text, position, row):
                if self._fits(row):
                    return row
                best = best or row
        single = self._parse(text, position, self._one_line, complete=True)
        return single if best is None or self._fits(single) else best

    def fields(self, text: bytes) -> list[str]:
        """Return the fields of a text that is a row, with its line end or without.

        Raises `UnicodeDecodeError` if it is not UTF-8.
        """
        decoded = text.decode().removeprefix(_BOM)
        if b'"' not in text and b"\\" not in text:
            fields = decoded.removesuffix(self._newline).removesuffix("\r").split(self._separator)
            if len(fields) == self._columns and self._newline not in fields[-1]:
                return fields
        elif not self._odd.search(decoded):
            with contextlib.suppress(csv.Error):
                fields = next(csv.reader([decoded], delimiter=self._separator, strict=True))
                if len(fields) == self._columns:
                    return fields
        text = text if text.endswith(self.line_end) else text + self.line_end
        return [field.decode() for field in self.read(text.removeprefix(_BOM.encode())).fields]

    def read_strictly(self, text: bytes, position: int) -> Row:
        """Return the row at a position as the dialect has it."""
        row = self._parse(text, position, self._strict, complete=True)
        return row if row.regular else row._replace(end=text.find(self.line_end, position) + 1)

    def _fits(self, row: Row) -> bool:
        return self._columns is None or len(row.fields) == self._columns

    def _parse(self, text: bytes, position: int, style: _Style, *, complete: bool) -> Row:
        fields, regular = [], True
        while True:
            opened = self._open.match(text, position)
            closed = None
            if opened:
                start = opened.end()
                end = style.quoted.match(text, start, start + MAX_FIELD).end()
                self._check_end(text, start, end, complete=complete)
                closed = self._close.match(text, end)
            if closed:
                fields.append(style.quoted_escapes.sub(rb"\1", text[start:end]))
                position = closed.end()
            else:
                regular &= opened is None
                found = style.plain.match(text, position)
                self._check_end(text, position, found.end(), complete=complete)
                last = text[found.end() : found.end() + 1] != self._delimiter
                value = found[0].removesuffix(b"\r") if last else found[0]
                fields.append(style.plain_escapes.sub(rb"\1", value) if style.plain_escapes else value)
                position = found.end()
            if text[position : position + 1] != self._delimiter:
                break
            position += 1
        position = text.find(self.line_end, position) + 1 or len(text)
        return Row(fields, position, regular)

    def _check_end(self, text: bytes, start: int, end: int, *, complete: bool) -> None:
        """Raise `Incomplete` where a field ends only because the text does."""
        if not complete and end + 2 >= len(text) and end < start + MAX_FIELD:
            raise Incomplete

    def _swallows_rows(self, text: bytes, position: int, row: Row) -> bool:
        """Return whether a row that spans lines consists of lines that are rows themselves."""
        first, *others = text[position : row.end - 1].split(self.line_end)
        if not others or self._image_column is None:
            return False
        kind = self._image_kind(first, whole=False)
        return bool(kind) and any(self._image_kind(line, whole=True) == kind for line in others)

    def _image_kind(self, line: bytes, *, whole: bool) -> str:
        """Return the protocol, suffix or pattern in the image column of a line, or ""; `whole`: only of a row."""
        fields = self._parse(line + self.line_end, 0, self._one_line, complete=True).fields
        if len(fields) <= self._image_column or (whole and len(fields) != self._columns):
            return ""
        value = fields[self._image_column].decode("utf-8", "replace").strip().lower()
        if "://" in value:
            return value.partition("://")[0]
        suffix = re.search(r"\.\w{1,5}$", value)
        if suffix is None:
            pattern = re.sub(r"\w*\d\w*", "0", value)  # names with numbers differ in these alone
            return pattern if pattern != value and not re.search(r"\s", value) else ""
        return "image" if suffix[0] in IMAGE_SUFFIXES else suffix[0]

"""Tables of image paths and captions: CSV, TSV, JSON lines and arrays of JSON objects."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

from data.io.fingerprint import fingerprint
from data.io.storage import File, is_remote, read_file, read_range
from data.sources.base import BadRecord, ContentDigest, Record, find_texts, parse_class
from data.sources.content import SAMPLES, evenly_spaced, record_digests
from data.sources.tables.dialect import SAMPLE_BYTES, recognise
from data.sources.tables.json_rows import has_json_lines
from data.sources.tables.row_index import index_objects, index_rows
from data.sources.tables.rows import Dialect, RowReader

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
_JSON = (".jsonl", ".json")
DELIMITER_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_WEB = ("http://", "https://")
# The protocols that a row may use. fsspec has more, and some of them log in with the user's keys or read further
# addresses from the files that they open; an untrusted table must not choose among those.
_PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "oci", "hf")
_NAMING_ROWS = 100  # leading rows of JSON lines that define the columns


class CaptionTable:
    """A `Source` of the rows of a table, each with the path or URL of an image and its captions.

    Relative paths start from the table's folder. `image_keys` and `text_keys` are candidate columns; the first
    that the table has is used. The columns `label` and `class` are optional. JSON may hold a list of captions.
    The delimiter of other tables is recognised by their content (`recognise`), and quotes that enclose no field are
    text (`RowReader`). The offsets of the rows are found once and stored in `cache_dir`.
    Raises `ValueError`, listing the columns, if one is missing.
    """

    def __init__(
        self, file: File, *, cache_dir: str | os.PathLike, image_keys: tuple[str, ...], text_keys: tuple[str, ...]
    ):
        self._file, self._text_keys = file, text_keys
        self._json = file.path.lower().endswith(_JSON)
        sample = read_range(file, 0, SAMPLE_BYTES)
        self.dialect, self._columns = recognise(
            sample, path=file.path, image_keys=image_keys, text_keys=text_keys, whole=len(sample) == file.size
        )
        self._reader, self._first, key = None, 0, ""
        self._after = ""  # characters between the objects of a file
        if not self._json:
            if not self._columns:
                raise ValueError(f"{file.path} is empty. Its first line must name the columns.")
            self._image_key = _choose_columns(file.path, self._columns, image_keys, text_keys)
            image_column = self._columns.index(self._image_key)
            self._reader, self._first = RowReader(self.dialect, len(self._columns), image_column), 1
            key = f"{len(self._columns)} {image_column}"
        cache = pathlib.Path(cache_dir)
        if self._json and not has_json_lines(sample, file.path):
            self.index, self._after = index_objects(file, cache), ", \t\r\n"
        else:
            self.index = index_rows(file, cache, self.dialect, self._reader, key)
        if len(self) < 1:
            raise ValueError(f"{file.path} has no rows")
        if self._json:
            columns = self._leading_fields()
            if len(self) == 1 and not set(columns) & set(image_keys):
                self._check_no_lists()
            self._image_key = _choose_columns(file.path, columns, image_keys, text_keys)
        rows = str(zlib.crc32(self.index.starts))
        self.fingerprint = fingerprint(file.name, str(file.size), rows, *text_keys, self._image_key)

    def _leading_fields(self) -> list[str]:
        """Return the names of the fields in the first rows."""
        names: dict[str, None] = {}
        for index in range(min(len(self), _NAMING_ROWS)):
            with contextlib.suppress(BadRecord):
                names |= dict.fromkeys(self.fields(index))
        return list(names)

    def _check_no_lists(self) -> None:
        """Raise `ValueError` for a single object with lists of objects, such as COCO's annotations."""
        with contextlib.suppress(BadRecord):
            lists = [name for name, value in self.fields(0).items() if isinstance(value, list)]
            if lists:
                raise ValueError(
                    f"{self.path} is one object with the lists {', '.join(lists)}. Write an array of objects, each "
                    "with an image path and its caption."
                )

    @property
    def path(self) -> str:
        """The path or URL of the table."""
        return self._file.path

    def __len__(self) -> int:
        return len(self.index.starts) - 1 - self._first

    def __getitem__(self, index: int) -> Record:
        key = self.key(index)
        fields = self.fields(index)
        path = fields.get(self._image_key)
        if not isinstance(path, str) or not path:
            raise self._bad("no image", index, f"its {self._image_key} is {path!r:.80}")
        if not self._is_allowed(path):
            detail = f"{path!r:.80} is not a path or an address of an allowed protocol: {', '.join(_PROTOCOLS)}"
            raise self._bad("missing file", index, detail)
        try:
            image = read_file(self._resolve(path))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
            raise self._bad(
                "missing file", index, f"{self._resolve(path)!r} does not exist or is not a file"
            ) from error
        except OSError as error:
            dead_link = path.startswith(_WEB)  # every list of URLs has some
            if dead_link or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                raise self._bad("missing file", index, f"{error}") from error
            raise
        label, name = parse_class(fields.get("label"), fields.get("class") or None)
        return Record(
            key=key,
            image=image,
            texts=find_texts(fields, self._text_keys, key=key),
            label=label,
            class_name=name,
            metadata=fields,
        )

    def content_fingerprint(self) -> None:
        """Return None: the images are separate files."""

    def content_digests(self) -> list[ContentDigest]:
        """Return digests of the table's rows, and of some of the images if they are local files."""
        rows = ContentDigest(self._file.name, self.index.content)
        local = [index for index in evenly_spaced(len(self), SAMPLES) if self._has_local_image(index)]
        return [rows, *record_digests(self, local)]

    def _has_local_image(self, index: int) -> bool:
        try:
            path = self.fields(index).get(self._image_key)
        except BadRecord:
            return False
        return isinstance(path, str) and bool(path) and not is_remote(self._resolve(path))

    def texts(self, index: int) -> tuple[str, ...]:
        """Return the captions of a row."""
        return find_texts(self.fields(index), self._text_keys, key=self.key(index))

    def key(self, index: int) -> str:
        """Return `TABLE:ROW`, with rows counted from 1 after the header line."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return f"{self._file.name}:{index + 1}"

    def fields(self, index: int) -> dict[str, Any]:
        """Return the fields of a row by column; raises `BadRecord` for a row that cannot be read."""
        number = index + self._first
        start, stop = (int(self.index.starts[each]) for each in (number, number + 1))
        text = read_range(self._file, start, stop)
        try:
            return self._parse_json(text, index) if self._reader is None else self._parse_row(text, index)
        except UnicodeDecodeError as error:
            raise self._bad("text not UTF-8", index, f"it is not UTF-8 ({error.reason})") from error

    def _parse_json(self, text: bytes, index: int) -> dict[str, Any]:
        try:
            fields = json.loads(text.decode().removeprefix("\ufeff").rstrip(self._after))
        except json.JSONDecodeError as error:
            detail = f"it is not JSON ({error.msg} at column {error.colno})"
            raise self._bad("fields not readable", index, detail) from error
        except (RecursionError, ValueError) as error:  # a number of thousands of digits is a ValueError
            raise self._bad("fields not readable", index, f"it is not JSON ({error})") from error
        if not isinstance(fields, dict):
            raise self._bad("fields not readable", index, f"it must be an object, found {type(fields).__name__}")
        return fields

    def _parse_row(self, text: bytes, index: int) -> dict[str, str]:
        row = self._reader.fields(text)
        while len(row) > len(self._columns) and not row[-1]:
            row.pop()  # spreadsheets add empty fields
        if len(row) != len(self._columns):
            detail = f"it has {len(row)} fields instead of {len(self._columns)}, separated by "
            raise self._bad("fields not readable", index, detail + _delimiter_name(self.dialect))
        return dict(zip(self._columns, row, strict=True))

    def _bad(self, reason: str, index: int, detail: str) -> BadRecord:
        """Return the error of a row, with its line, counted from 1."""
        return BadRecord(reason, self.key(index), f"line {self.index.row_lines[index + self._first]}: {detail}")

    def _is_allowed(self, path: str) -> bool:
        """Return whether a row may use this path: a local file, an allowed protocol, or the protocol of the table."""
        if not is_remote(path):
            return True
        table_protocol = self._file.path.partition("://")[0] if is_remote(self._file.path) else None
        return path.partition("://")[0] in (*_PROTOCOLS, table_protocol) and "::" not in path  # fsspec chains by "::"

    def _resolve(self, path: str) -> str:
        if is_remote(path) or path.startswith("/"):
            return path
        folder = self._file.path.rpartition("/")[0]
        return f"{folder}/{path}" if folder else path


def _choose_columns(path: str, columns: list[str], image_keys: tuple[str, ...], text_keys: tuple[str, ...]) -> str:
    """Return the column of image paths. Raises `ValueError` if a column is missing or there twice."""
    candidates = {"image": ("image paths", image_keys), "text": ("captions", text_keys)}
    chosen = []
    for setting, (content, keys) in candidates.items():
        key = next((key for key in keys if key in columns), None)
        if key is None:
            raise ValueError(
                f"{path} has no column of {content}: looked for {', '.join(keys)}, found {', '.join(columns)}. "
                f"Set data.{setting}_keys."
            )
        chosen.append(key)
    for key in (*chosen, "label", "class"):
        if columns.count(key) > 1:
            raise ValueError(f"{path} has {columns.count(key)} columns {key!r}. Rename all but one.")
    return chosen[0]


def log_rows(tables: Sequence[CaptionTable]) -> None:
    """Log how many rows were read from how many lines, and what was odd."""
    name = tables[0].path if len(tables) == 1 else f"{len(tables)} tables"
    lines, blank, spanning, odd = (
        sum(getattr(table.index, count) for table in tables) for count in ("lines", "blank", "spanning", "odd_quotes")
    )
    by_name = {table.path[-4:].lower(): table.dialect for table in tables}
    facts = [f"{name}: {_count(sum(map(len, tables)), 'row')} in {_count(lines, 'line')}"]
    facts += [f"separated by {_delimiter_name(each)}" for kind, each in by_name.items() if kind not in ("sonl", "json")]
    facts += [f"{_count(spanning, 'row')} over several lines"] if spanning else []
    facts += [_count(blank, "blank line")] if blank else []
    facts += ["with backslash escapes"] if any(table.dialect.escapes for table in tables) else []
    logger.info(", ".join(dict.fromkeys(facts)))
    if odd:
        first = next(table for table in tables if table.index.odd_quotes)
        logger.warning(
            f"{_count(odd, 'row')} with a quote that encloses no field, the first on line {first.index.first_odd} of "
            f"{first.path}: such quotes are read as text"
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _delimiter_name(dialect: Dialect) -> str:
    return DELIMITER_NAMES.get(dialect.delimiter, repr(dialect.delimiter))

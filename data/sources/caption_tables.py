"""Tables of image paths and captions: CSV, TSV and JSON lines."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import File, is_remote, read_file, read_range
from data.sources.base import BadRecord, Record, find_texts, parse_label
from foundation.atomic import atomic_file

SUFFIXES = (".csv", ".tsv", ".jsonl")
_WEB = ("http://", "https://")
# The protocols that a row may use. fsspec has more, and some of them log in with the user's keys or read further
# addresses from the files that they open; an untrusted table must not choose among those.
_PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "oci", "hf")
_NAMING_ROWS = 100  # leading rows of JSON lines that define the columns
csv.field_size_limit(1 << 24)  # characters; Python's default is too low for some captions


class CaptionTable:
    """A `Source` of the rows of a table, each with the path or URL of an image and its captions.

    Relative paths start from the table's folder. `image_keys` and `text_keys` are candidate columns; the first
    that the table has is used. The columns `label` and `class` are optional. JSON lines may hold a list of captions.
    The offsets of the rows are found once and stored in `cache_dir`, so that memory use does not grow with the table.
    Raises `ValueError`, listing the columns, if one is missing.
    """

    def __init__(
        self, file: File, *, cache_dir: str | os.PathLike, image_keys: tuple[str, ...], text_keys: tuple[str, ...]
    ):
        self._file, self._text_keys = file, text_keys
        self._jsonl = file.path.lower().endswith(".jsonl")
        self._starts = _row_starts(file, pathlib.Path(cache_dir))
        self._columns: list[str] | None = None
        first = 0
        if not self._jsonl:
            if len(self._starts) < 2:
                raise ValueError(f"{file.path} is empty. Its first line must name the columns.")
            self._columns, first = self._parse_row(0), 1
        self._first = first
        if not len(self):
            raise ValueError(f"{file.path} has no rows")
        columns = self._columns if self._columns is not None else self._leading_fields()
        self._image_key = _choose_column(
            image_keys, columns, path=file.path, content="image paths", setting="data.image_keys"
        )
        _choose_column(text_keys, columns, path=file.path, content="captions", setting="data.text_keys")
        rows = str(zlib.crc32(self._starts))
        self.fingerprint = fingerprint(file.name, str(file.size), rows, *text_keys, self._image_key)

    def _leading_fields(self) -> list[str]:
        """Return the names of the fields in the first rows."""
        names: dict[str, None] = {}
        for index in range(min(len(self), _NAMING_ROWS)):
            with contextlib.suppress(BadRecord):
                names |= dict.fromkeys(self._fields(index))
        return list(names)

    def __len__(self) -> int:
        return len(self._starts) - 1 - self._first

    def __getitem__(self, index: int) -> Record:
        key = self.key(index)
        fields = self._fields(index)
        path = fields.get(self._image_key)
        if not isinstance(path, str) or not path:
            raise BadRecord("no image", key, f"its {self._image_key} is {path!r:.80}")
        if not self._is_allowed(path):
            detail = f"{path!r:.80} is not a path or an address of an allowed protocol: {', '.join(_PROTOCOLS)}"
            raise BadRecord("missing file", key, detail)
        try:
            image = read_file(self._resolve(path))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
            raise BadRecord("missing file", key, f"{self._resolve(path)!r} does not exist or is not a file") from error
        except OSError as error:
            dead_link = path.startswith(_WEB)  # every list of URLs has some
            if dead_link or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                raise BadRecord("missing file", key, f"{error}") from error
            raise
        name = fields.get("class")
        return Record(
            key=key,
            image=image,
            texts=find_texts(fields, self._text_keys, key=key),
            label=parse_label(fields.get("label")),
            class_name=str(name) if name else None,
            metadata=fields,
        )

    def content_fingerprint(self) -> None:
        """Return None: the images are separate files."""

    def texts(self, index: int) -> tuple[str, ...]:
        """Return the captions of a row."""
        return find_texts(self._fields(index), self._text_keys, key=self.key(index))

    def key(self, index: int) -> str:
        """Return `TABLE:ROW`, with rows counted from 1 after the header line."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return f"{self._file.name}:{index + 1}"

    def _fields(self, index: int) -> dict[str, Any]:
        row = self._parse_row(index + self._first)
        if self._columns is None:
            return row
        if len(row) != len(self._columns):
            detail = f"the row has {len(row)} fields instead of {len(self._columns)}"
            raise BadRecord("fields not readable", self.key(index), detail)
        return dict(zip(self._columns, row, strict=True))

    def _parse_row(self, number: int) -> Any:
        line = read_range(self._file, int(self._starts[number]), int(self._starts[number + 1]))
        key = f"{self._file.name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 0 else "utf-8")
            if self._jsonl:
                fields = json.loads(text)
                if not isinstance(fields, dict):
                    raise ValueError(f"a row must be an object, found {type(fields).__name__}")
                return fields
            return next(csv.reader([text], delimiter=_delimiter(self._file.path)))
        except UnicodeDecodeError as error:
            raise BadRecord("text not UTF-8", key, f"the row is not UTF-8 ({error.reason})") from error
        except (ValueError, csv.Error, RecursionError) as error:
            raise BadRecord("fields not readable", key, f"the row cannot be parsed ({error})") from error

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


def _choose_column(keys: tuple[str, ...], columns: list[str], *, path: str, content: str, setting: str) -> str:
    chosen = next((key for key in keys if key in columns), None)
    if chosen is None:
        raise ValueError(
            f"{path} has no column of {content}: looked for {', '.join(keys)}, found {', '.join(columns)}. "
            f"Set {setting}."
        )
    return chosen


def _delimiter(path: str) -> str:
    return "\t" if path.lower().endswith(".tsv") else ","


def _row_starts(file: File, cache_dir: pathlib.Path) -> np.ndarray:
    """Return the start of each row and the end of the last, `[rows + 1]` int64, memory-mapped from the cache."""
    path = cache_dir / ".table-index" / f"{fingerprint(file.path, str(file.size), file.stamp)}.npy"
    if _load_row_starts(path) is None:
        try:
            starts = np.fromiter(_find_rows(file), np.int64)
        except csv.Error as error:
            raise ValueError(f"{file.path} cannot be parsed as a table ({error}). End its lines with \\n.") from error
        with atomic_file(path) as temporary:
            np.save(temporary, starts)
    return _load_row_starts(path)


def _load_row_starts(path: pathlib.Path) -> np.ndarray | None:
    """Return the stored row starts, or None if there are no valid ones."""
    try:
        starts = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return starts if starts.ndim == 1 and starts.dtype == np.int64 and len(starts) else None


def _find_rows(file: File) -> Iterator[int]:
    with _open_lines(file) as lines:
        if file.path.lower().endswith(".jsonl"):
            yield from _line_starts(lines)
        else:
            yield from _csv_starts(lines, _delimiter(file.path))


def _open_lines(file: File) -> IO[bytes]:
    if not is_remote(file.path):
        return open(file.path, "rb")
    import fsspec

    return fsspec.open(file.path, "rb").open()


def _line_starts(lines: Iterator[bytes]) -> Iterator[int]:
    """Yield the starts of non-blank lines, and the end of the file."""
    position = 0
    for line in lines:
        if line.strip():
            yield position
        position += len(line)
    yield position


def _csv_starts(lines: Iterator[bytes], delimiter: str) -> Iterator[int]:
    """Yield the starts of rows and the end of the file; quoted rows may span lines, blank lines join the row before."""
    position = 0

    def count_bytes() -> Iterator[str]:
        nonlocal position
        for line in lines:
            position += len(line)
            yield line.decode("latin-1")  # row ends do not depend on the encoding

    start = 0
    for row in csv.reader(count_bytes(), delimiter=delimiter):
        if row:
            yield start
        start = position
    yield position

"""Tables of picture paths and captions: CSV, TSV and JSON lines."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import File, is_remote, read_file, read_range
from data.sources.base import BadRecord, Record, find_texts, to_label

SUFFIXES = (".csv", ".tsv", ".jsonl")
_WEB = ("http://", "https://")
# Where a row's picture may lie. fsspec knows more, of which some log in with this user's keys or read further addresses
# from what they open; a table that comes from elsewhere is not to choose among them.
_PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "oci", "hf")
_PEEKED = 100  # rows of JSON lines that are looked at for what their fields are called
csv.field_size_limit(1 << 24)  # characters; Python's own limit is too low for some captions


class CaptionTable:
    """The rows of a table, each a picture's path or URL and its captions: a `Source`.

    A relative path counts from the table's folder. `image_keys` and `text_keys` name the columns, of which the first
    that the table has is used; `label` and `class` are read where there are such columns. JSON lines may hold a list of
    captions. Where the rows begin is found once and kept in `cache_dir`, so that memory does not grow with the table.
    Raises `ValueError`, naming the columns, where one is missing.
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
                raise ValueError(f"{file.path} is empty; its first line must name the columns")
            self._columns, first = self._parse_row(0), 1
        self._first = first
        if not len(self):
            raise ValueError(f"{file.path} has no rows")
        columns = self._columns if self._columns is not None else self._peek()
        self._image_key = _choose(image_keys, columns, file.path, "picture paths", "data.image_keys")
        _choose(text_keys, columns, file.path, "captions", "data.text_keys")
        rows = str(zlib.crc32(self._starts))
        self.fingerprint = fingerprint(file.name, str(file.size), rows, *text_keys, self._image_key)

    def _peek(self) -> list[str]:
        """Returns the names of the fields of the first rows."""
        names: dict[str, None] = {}
        for index in range(min(len(self), _PEEKED)):
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
        if not self._may_name(path):
            detail = f"{path!r:.80} is none of the addresses that a row may name: {', '.join(_PROTOCOLS)}"
            raise BadRecord("missing file", key, detail)
        try:
            image = read_file(self._resolve(path))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
            raise BadRecord("missing file", key, f"{self._resolve(path)!r} is not there, or is no file") from error
        except OSError as error:
            dead = path.startswith(_WEB)  # as some are in any list of them
            if dead or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                raise BadRecord("missing file", key, f"{error}") from error
            raise
        name = fields.get("class")
        return Record(
            key=key,
            image=image,
            texts=find_texts(fields, self._text_keys, key),
            label=to_label(fields.get("label")),
            class_name=str(name) if name else None,
            metadata=fields,
        )

    def content_fingerprint(self) -> None:
        """Returns None: the pictures are files of their own."""

    def texts(self, index: int) -> tuple[str, ...]:
        """Returns the captions of a row."""
        return find_texts(self._fields(index), self._text_keys, self.key(index))

    def key(self, index: int) -> str:
        """Returns `TABLE:ROW`, the row counted from 1 without the line of column names."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return f"{self._file.name}:{index + 1}"

    def _fields(self, index: int) -> dict[str, Any]:
        row = self._parse_row(index + self._first)
        if self._columns is None:
            return row
        if len(row) != len(self._columns):
            detail = f"it has {len(row)} fields instead of {len(self._columns)}"
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
                    raise ValueError(f"a row is no object but {type(fields).__name__}")
                return fields
            return next(csv.reader([text], delimiter=_delimiter(self._file.path)))
        except UnicodeDecodeError as error:
            raise BadRecord("text not UTF-8", key, f"its row is not UTF-8 ({error.reason})") from error
        except (ValueError, csv.Error, RecursionError) as error:
            raise BadRecord("fields not readable", key, f"its row cannot be read ({error})") from error

    def _may_name(self, path: str) -> bool:
        """Tells whether a picture may lie there: in a file, on the web, in a store, or wherever the table lies."""
        own = self._file.path.partition("://")[0] if is_remote(self._file.path) else None
        if not is_remote(path):
            return True
        return path.partition("://")[0] in (*_PROTOCOLS, own) and "::" not in path  # by which fsspec chains addresses

    def _resolve(self, path: str) -> str:
        if is_remote(path) or path.startswith("/"):
            return path
        folder = self._file.path.rpartition("/")[0]
        return f"{folder}/{path}" if folder else path


def _choose(keys: tuple[str, ...], columns: list[str], path: str, what: str, setting: str) -> str:
    chosen = next((key for key in keys if key in columns), None)
    if chosen is None:
        raise ValueError(
            f"{path} has no column of {what}: looked for {', '.join(keys)}, and it has {', '.join(columns)}; "
            f"set {setting}"
        )
    return chosen


def _delimiter(path: str) -> str:
    return "\t" if path.lower().endswith(".tsv") else ","


def _row_starts(file: File, cache_dir: pathlib.Path) -> np.ndarray:
    """Returns where each row begins and the last one ends, `[rows + 1]` int64, mapped from a file."""
    path = cache_dir / ".table-index" / f"{fingerprint(file.path, str(file.size), file.stamp)}.npy"
    if _open_starts(path) is None:
        try:
            starts = np.fromiter(_find_rows(file), np.int64)
        except csv.Error as error:
            raise ValueError(f"{file.path} cannot be read as a table ({error}); end its lines with \\n") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            partial = pathlib.Path(temporary) / path.name
            np.save(partial, starts)
            os.replace(partial, path)
    return _open_starts(path)


def _open_starts(path: pathlib.Path) -> np.ndarray | None:
    """Returns the array of an index, or None where there is none that can be used."""
    try:
        starts = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return starts if starts.ndim == 1 and starts.dtype == np.int64 and len(starts) else None


def _find_rows(file: File) -> Iterator[int]:
    with _opened(file)() as lines:
        if file.path.lower().endswith(".jsonl"):
            yield from _line_starts(lines)
        else:
            yield from _csv_starts(lines, _delimiter(file.path))


def _opened(file: File) -> Callable[[], IO[bytes]]:
    if not is_remote(file.path):
        return lambda: open(file.path, "rb")
    import fsspec

    return lambda: fsspec.open(file.path, "rb").open()


def _line_starts(lines: Iterator[bytes]) -> Iterator[int]:
    """Yields the starts of lines that are not blank, and the end."""
    position = 0
    for line in lines:
        if line.strip():
            yield position
        position += len(line)
    yield position


def _csv_starts(lines: Iterator[bytes], delimiter: str) -> Iterator[int]:
    """Yields the starts of rows, which quotes may spread over lines, and the end; blank lines join the row before."""
    position = 0

    def counted() -> Iterator[str]:
        nonlocal position
        for line in lines:
            position += len(line)
            yield line.decode("latin-1")  # where rows end does not depend on the letters

    start = 0
    for row in csv.reader(counted(), delimiter=delimiter):
        if row:
            yield start
        start = position
    yield position

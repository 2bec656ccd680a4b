"""The positions of a table's rows, found once and stored, so that memory use does not grow with the table."""

from __future__ import annotations

import hashlib
import logging
import pathlib
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import File, is_remote
from data.sources.tables.json_rows import find_objects
from data.sources.tables.rows import MAX_FIELD, Dialect, Incomplete, RowReader
from foundation.files.atomic import atomic_file

logger = logging.getLogger(__name__)

_FOLDER = ".table-index"
_CHUNK = 1 << 23  # bytes
_VERSION = 2
_HEAD = 3  # numbers before the counts: version, checksum of everything after it, hash of the table


class RowIndex(NamedTuple):
    """The `starts` of the rows and the end of the last, and the line of each from 1, `[rows + 1]` int64.

    lines: number of lines in the file. blank: lines without content. spanning: rows of several lines. odd_quotes: rows
    with quotes that are read as text, and `first_odd` the line of the first. content: a hash of the rows, with header.
    """

    starts: np.ndarray
    row_lines: np.ndarray
    lines: int
    blank: int
    spanning: int
    odd_quotes: int
    first_odd: int
    content: str


class _Part(NamedTuple):
    """The rows of a part of a file; `counts` are those of `RowIndex`, from `lines` on."""

    starts: np.ndarray
    row_lines: np.ndarray
    counts: np.ndarray


_COUNTS = len(RowIndex._fields) - 3
_NONE = np.iinfo(np.int64).max  # `first_odd` without odd quotes


def index_rows(file: File, cache_dir: pathlib.Path, dialect: Dialect, reader: RowReader | None, key: str) -> RowIndex:
    """Return the rows of a table, memory-mapped from the cache; without a reader, every line is a row.

    `key` states what the reader depends on. A damaged index is built again, which is logged.
    """
    name = fingerprint(file.path, str(file.size), file.stamp, str(dialect), key)
    path = cache_dir / _FOLDER / f"{name}.npy"
    index = _load(path)
    if index is None:
        _save(path, _build(file, dialect, reader))
        index = _load(path)
    return index


def _build(file: File, dialect: Dialect, reader: RowReader | None) -> np.ndarray:
    """Return the index of a table as it is stored."""
    digest = hashlib.sha256()
    parts = list(_find_rows(file, dialect, reader, digest))
    counts = np.sum([part.counts for part in parts], axis=0, dtype=np.int64)
    counts[-1] = min(part.counts[-1] for part in parts)
    starts = np.concatenate([part.starts for part in parts] + [[file.size]])
    row_lines = np.concatenate([part.row_lines for part in parts] + [[counts[0] + 1]])
    return _stored(digest.digest(), counts, starts, row_lines)


def index_objects(file: File, cache_dir: pathlib.Path) -> RowIndex:
    """Return the objects of a JSON file that are not one per line, as `index_rows`; raises as `find_objects`."""
    path = cache_dir / _FOLDER / f"{fingerprint(file.path, str(file.size), file.stamp, 'objects')}.npy"
    index = _load(path)
    if index is None:
        found = find_objects(file)
        counts = np.array([found.num_lines, 0, 0, 0, _NONE])
        _save(path, _stored(found.digest, counts, found.starts, found.lines))
        index = _load(path)
    return index


def _stored(digest: bytes, counts: np.ndarray, starts: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Return an index as it is stored, int64: the head, the counts, and both arrays of `RowIndex`."""
    content = np.frombuffer(digest[:8], np.int64)
    stored = np.concatenate([[_VERSION, 0], content, counts, starts, lines]).astype(np.int64)
    stored[1] = zlib.crc32(stored[2:])
    return stored


def _save(path: pathlib.Path, stored: np.ndarray) -> None:
    with atomic_file(path) as temporary:
        np.save(temporary, stored)


def _load(path: pathlib.Path) -> RowIndex | None:
    """Return the stored index, or None if there is none, or none of this version; damage is logged."""
    try:
        stored = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # faster than a memmap, still on disk
    except FileNotFoundError:
        return None
    except Exception:  # damaged headers raise many kinds of errors
        stored = np.empty(0, np.int64)
    first = _HEAD + _COUNTS
    if stored.ndim == 1 and stored.dtype == np.int64 and len(stored) >= first:
        if stored[0] != _VERSION:
            return None
        if stored[1] == zlib.crc32(stored[2:]):
            starts, row_lines = np.split(stored[first:], 2)
            content = stored[2:_HEAD].tobytes().hex()
            return RowIndex(starts, row_lines, *map(int, stored[_HEAD:first]), content)
    logger.warning(f"the index {path} is damaged and built again")
    return None


def _find_rows(file: File, dialect: Dialect, reader: RowReader | None, digest: Any) -> Iterator[_Part]:
    """Yield the rows of a file part by part; `digest` is updated with its content."""
    position, line = dialect.start, 1 + (dialect.start > 3)  # after a byte order mark, or after a line "sep=;"
    text, size = b"", _CHUNK
    yield _Part(np.empty(0, np.int64), np.empty(0, np.int64), np.array([line - 1, 0, 0, 0, _NONE]))
    with _open(file) as opened:
        opened.seek(position)
        while True:
            added = opened.read(size)
            digest.update(added)
            text += added
            complete = len(added) < size
            if complete and text and not text.endswith(dialect.line_end):
                text += dialect.line_end
            used, part = _scan(text, dialect, reader, line=line, complete=complete)
            yield part._replace(starts=part.starts + position)
            if complete:
                return
            text, position, line = text[used:], position + used, line + int(part.counts[0])
            size = _CHUNK if used else _CHUNK + MAX_FIELD


def _scan(text: bytes, dialect: Dialect, reader: RowReader | None, *, line: int, complete: bool) -> tuple[int, _Part]:
    """Return the number of bytes used, which are whole rows, and the rows in them. `line` is the first line's number.

    Only lines with unusual quotes or escapes are looked at one by one.
    """
    content = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(content == dialect.line_end[0])
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    blank = np.zeros(len(ends), bool)
    for number in np.flatnonzero(content[starts] <= ord(" ")).tolist():
        blank[number] = not text[starts[number] : ends[number]].strip()
    begins = ~blank
    used, spanning, odd, first_odd, done = len(ends), 0, 0, _NONE, 0
    for number in _unusual_lines(text, ends, dialect) if reader else ():
        start = int(starts[number])
        if start < done or reader.is_regular_line(text, start):
            continue
        try:
            row = reader.read(text, start, complete=complete)
        except Incomplete:
            used = number
            break
        if not row.regular:
            odd, first_odd = odd + 1, min(first_odd, line + number)
        done, next_line = row.end, int(np.searchsorted(starts, row.end))
        spanning += next_line > number + 1
        begins[number + 1 : next_line] = blank[number + 1 : next_line] = False
    rows = np.flatnonzero(begins[:used])
    counts = np.array([used, int(blank[:used].sum()), spanning, odd, first_odd])
    return int(ends[used - 1]) + 1 if used else 0, _Part(starts[rows], rows + line, counts)


def _unusual_lines(text: bytes, ends: np.ndarray, dialect: Dialect) -> list[int]:
    """Return the numbers of lines with escapes, or with quotes that neither enclose a field nor double each other.

    In other lines, the 1st, 3rd, … quote opens a field or follows its double, and the 2nd, 4th, … closes a field or
    precedes its double.
    """
    unusual = np.zeros(len(ends) + 1, bool)  # the last for what follows the last line end
    content = np.frombuffer(text, np.uint8)
    if dialect.escapes:
        unusual[np.searchsorted(ends, np.flatnonzero(content == ord("\\")))] = True
    quotes = np.flatnonzero(content == ord('"'))
    if len(quotes):
        lines = np.searchsorted(ends, quotes)
        counts = np.bincount(lines, minlength=len(unusual))
        second = ((np.arange(len(quotes)) - (np.cumsum(counts) - counts)[lines]) & 1).astype(bool)
        padded = np.frombuffer(dialect.line_end + text + b"\0\0", np.uint8)  # byte i of the text is padded[i + 1]
        neighbour = padded[np.where(second, quotes + 2, quotes)]
        usual = (neighbour == ord('"')) | (neighbour == ord(dialect.delimiter)) | (neighbour == dialect.line_end[0])
        returns = np.flatnonzero(second & (neighbour == ord("\r")))
        usual[returns] |= padded[quotes[returns] + 3] == dialect.line_end[0]
        unusual |= counts % 2 == 1
        unusual[lines[~usual]] = True
    return np.flatnonzero(unusual[:-1]).tolist()


def _open(file: File) -> IO[bytes]:
    if not is_remote(file.path):
        return open(file.path, "rb")
    import fsspec

    return fsspec.open(file.path, "rb").open()

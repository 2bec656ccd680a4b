"""The files of an embedded collection: pieces while it is being embedded, and the joined files at the end."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.sources.base import BadRecord
from foundation.files.atomic import atomic_file, atomic_files
from foundation.shard import Shard

_NUM_PIECES = 200  # approximate number of pieces of a collection
_MIN_ROWS, _MAX_ROWS = 256, 65_536  # per piece
_DAMAGE = (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile)
_ARRAYS = ("embeddings", "ids", "bad")  # of a piece
_FILE_NAMES = {"safetensors": "safetensors", "npy": "npy", "ids": "ids.jsonl", "bad": "bad.jsonl"}


class EmbeddedCollection(NamedTuple):
    """The written `files` by kind, the number of embedded `rows`, and the number of rows left out as `bad`."""

    files: dict[str, pathlib.Path]
    rows: int
    bad: int


class Piece(NamedTuple):
    """The `rows` of a collection that are saved together, and the `path` of their file."""

    path: pathlib.Path
    rows: range

    def exists(self) -> bool:
        """Whether the file can be read; a piece that cannot be read is embedded again."""
        try:
            return self.path.is_file() and all(_read(self.path, name) is not None for name in _ARRAYS)
        except _DAMAGE:
            return False

    def save(self, embeddings: np.ndarray, *, ids: Sequence[Any], bad: Mapping[int, BadRecord]) -> None:
        """Write the embeddings `[rows, dim]` without the rows in `bad`, which are keyed by their number."""
        good = np.array([row not in bad for row in self.rows], bool)
        lines = [_json_line(each) for each in ids]
        problems = [
            json.dumps({"id": json.loads(lines[row - self.rows.start]), "reason": error.reason, "detail": error.detail})
            for row, error in sorted(bad.items())
        ]
        with atomic_file(self.path) as partial:
            np.savez(
                partial,
                embeddings=embeddings[good],
                ids=_pack([line for line, kept in zip(lines, good, strict=True) if kept]),
                bad=_pack(problems),
            )


def collection_files(out: pathlib.Path, name: str) -> dict[str, pathlib.Path]:
    """Return the paths of the joined files of a collection by kind."""
    return {kind: out / f"{name}.{ending}" for kind, ending in _FILE_NAMES.items()}


class Pieces(Sequence):
    """The pieces of `count` rows in `folder`, made when they are looked up: their number costs no memory.

    They do not depend on the number of devices or shards.
    """

    def __init__(self, folder: pathlib.Path, count: int):
        self._folder, self._count = folder, count
        rows = max(-(-count // _NUM_PIECES), 1)
        self._rows = -(-min(rows, _MAX_ROWS) // _MIN_ROWS) * _MIN_ROWS

    def __len__(self) -> int:
        return -(-self._count // self._rows)

    def __getitem__(self, number: int) -> Piece:
        if not 0 <= number < len(self):
            raise IndexError(f"piece {number} of {len(self)}")
        start = number * self._rows
        return Piece(self._folder / f"{start:012d}.npz", range(start, min(start + self._rows, self._count)))

    def of(self, shard: Shard) -> Iterator[Piece]:
        """Yield every `shard.count`-th piece: those of the shard."""
        return map(self.__getitem__, range(shard.index, len(self), shard.count))


def join_pieces(
    pieces: Pieces, out: pathlib.Path, name: str, *, dim: int, metadata: Mapping[str, str]
) -> EmbeddedCollection:
    """Write the joined files of a collection from its pieces, with one piece in memory at a time.

    Raises `ValueError` for a piece that cannot be read, after removing it.
    """
    files = collection_files(out, name)
    rows, bad = (
        sum(_read_finished(piece.path, kind).tobytes().count(b"\n") for piece in pieces) for kind in ("ids", "bad")
    )
    if not bad:
        files.pop("bad").unlink(missing_ok=True)
    with atomic_files(*files.values(), prefix=_temporary_prefix(name)) as temporary, contextlib.ExitStack() as opened:
        writers = {kind: opened.enter_context(open(path, "wb")) for kind, path in zip(files, temporary, strict=True)}
        writers["safetensors"].write(_safetensors_header((rows, dim), metadata))
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(writers["npy"], header)
        for piece in pieces:
            values = _read_finished(piece.path, "embeddings").astype("<f4", copy=False).tobytes()
            writers["safetensors"].write(values)
            writers["npy"].write(values)
            for kind in set(writers) & {"ids", "bad"}:
                writers[kind].write(_read_finished(piece.path, kind).tobytes())
    return EmbeddedCollection(files, rows, bad)


def remove_leftovers(out: pathlib.Path, name: str) -> None:
    """Remove the temporary files of a process that was killed while it joined the pieces of a collection."""
    for leftover in out.glob(f"{_temporary_prefix(name)}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _temporary_prefix(name: str) -> str:
    return f".{name}.partial-"


def _json_line(value: Any) -> str:
    """Return a value as JSON; in ASCII if it is a file name that is not UTF-8."""
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeError:
        line = json.dumps(value)
    return line


def _pack(lines: Sequence[str]) -> np.ndarray:
    return np.frombuffer("".join(line + "\n" for line in lines).encode(), np.uint8)


def _read(path: pathlib.Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[name]


def _read_finished(path: pathlib.Path, name: str) -> np.ndarray:
    try:
        return _read(path, name)
    except _DAMAGE as error:
        path.unlink(missing_ok=True)
        raise ValueError(
            f"{path} was damaged and has been removed. Run the same `embed` commands, or one without --shard, to embed "
            "its rows again."
        ) from error


def _safetensors_header(shape: tuple[int, int], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a safetensors file with one float32 array `embeddings`."""
    header = {
        "__metadata__": dict(metadata),
        "embeddings": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * shape[0] * shape[1]]},
    }
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content

"""The files of an embedded collection: pieces while it is being embedded, and the joined files at the end."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.sources.base import BadRecord
from foundation.files.atomic import atomic_file, atomic_files

_NUM_PIECES = 200  # approximate number of pieces of a collection
_MIN_ROWS, _MAX_ROWS = 256, 65_536  # per piece
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
        except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile):
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


def split_into_pieces(folder: pathlib.Path, count: int) -> list[Piece]:
    """Return the pieces of `count` rows; they do not depend on the number of devices."""
    rows = max(-(-count // _NUM_PIECES), 1)
    rows = -(-min(rows, _MAX_ROWS) // _MIN_ROWS) * _MIN_ROWS
    return [
        Piece(folder / f"{start:012d}.npz", range(start, min(start + rows, count))) for start in range(0, count, rows)
    ]


def join_pieces(
    pieces: Sequence[Piece], out: pathlib.Path, name: str, *, dim: int, metadata: Mapping[str, str]
) -> EmbeddedCollection:
    """Write the joined files of a collection from its pieces, with one piece in memory at a time."""
    files = collection_files(out, name)
    rows, bad = (sum(_read(piece.path, kind).tobytes().count(b"\n") for piece in pieces) for kind in ("ids", "bad"))
    if not bad:
        files.pop("bad").unlink(missing_ok=True)
    with atomic_files(*files.values(), prefix=_temporary_prefix(name)) as temporary, contextlib.ExitStack() as opened:
        writers = {kind: opened.enter_context(open(path, "wb")) for kind, path in zip(files, temporary, strict=True)}
        writers["safetensors"].write(_safetensors_header((rows, dim), metadata))
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(writers["npy"], header)
        for piece in pieces:
            values = _read(piece.path, "embeddings").astype("<f4", copy=False).tobytes()
            writers["safetensors"].write(values)
            writers["npy"].write(values)
            for kind in set(writers) & {"ids", "bad"}:
                writers[kind].write(_read(piece.path, kind).tobytes())
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


def _safetensors_header(shape: tuple[int, int], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a safetensors file with one float32 array `embeddings`."""
    header = {
        "__metadata__": dict(metadata),
        "embeddings": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * shape[0] * shape[1]]},
    }
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content

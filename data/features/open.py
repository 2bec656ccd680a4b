"""Opening stored features: files of any encoder, or the folders that `launch.py embed` writes."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.features.arrays import SUFFIXES, open_array
from foundation.files.checksum_file import sha256_of
from foundation.files.lines import split_lines
from foundation.files.safe_json import read_json
from foundation.suggestions import nearest_path

logger = logging.getLogger(__name__)

_KINDS = ("images", "texts")  # names of the files that `embed` writes
_CHUNK_BYTES = 64 << 20  # of float64, while features are measured
_SMALLEST = 1e-12  # length by which rows are divided
_UNIT = 1e-2  # deviation from length 1 of features that are normalised


class FeatureStatistics(NamedTuple):
    """Mean and standard deviation `[dim]` of features, and the smallest and largest length of a row as it is stored."""

    mean: np.ndarray
    deviation: np.ndarray
    shortest: float
    longest: float

    @property
    def unit_length(self) -> bool:
        """Whether all rows have length 1."""
        return self.shortest > 1 - _UNIT and self.longest < 1 + _UNIT


@dataclasses.dataclass(frozen=True)
class Features:
    """Rows of features `[rows, dim]` in one or more files, which stay on disk.

    ids: the id of each row, or None if the files have none.
    encoder: what `embed` recorded of the encoder in the description of the file, empty for other files.
    sources: name, rows and fingerprint of each file.
    """

    parts: tuple[np.ndarray, ...]
    ids: tuple[str, ...] | None
    encoder: Mapping[str, Any]
    sources: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def dim(self) -> int:
        """Number of dimensions of a row."""
        return self.parts[0].shape[1]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, `[len(rows), dim]` float32."""
        if len(self.parts) == 1:
            return np.asarray(self.parts[0][rows], np.float32)
        gathered = np.empty((len(rows), self.dim), np.float32)
        first = 0
        for part in self.parts:
            own = (first <= rows) & (rows < first + len(part))
            gathered[own] = part[rows[own] - first]
            first += len(part)
        return gathered

    def name_of(self, row: int) -> str:
        """Return the name of a row in messages."""
        for part, source in zip(self.parts, self.sources, strict=True):
            if row < len(part):
                return f"row {row} of {source['source']}"
            row -= len(part)
        raise IndexError(row)

    def measure(self, *, normalize: bool = False) -> FeatureStatistics:
        """Return statistics of all rows; raise `ValueError` for a row with a value that is not finite.

        With `normalize`, mean and deviation are those of the rows scaled to length 1.
        """
        rows = max(_CHUNK_BYTES // (8 * self.dim), 1)
        total, squares, shift = np.zeros(self.dim), np.zeros(self.dim), None
        shortest, longest = np.inf, 0.0
        for start in range(0, len(self), rows):
            chunk = self.gather(np.arange(start, min(start + rows, len(self)))).astype(np.float64)
            bad = np.flatnonzero(~np.isfinite(chunk).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"{self.name_of(start + int(bad[0]))} has a value that is not finite. Compute the features again, "
                    "or leave the row out."
                )
            lengths = np.linalg.norm(chunk, axis=1)
            shortest, longest = min(shortest, lengths.min()), max(longest, lengths.max())
            if normalize:
                chunk /= np.maximum(lengths, _SMALLEST)[:, None]
            shift = chunk.mean(axis=0) if shift is None else shift
            chunk -= shift  # close to the mean, so that the difference of squares keeps its digits
            total += chunk.sum(axis=0)
            squares += np.square(chunk).sum(axis=0)
        mean = total / len(self)
        deviation = np.sqrt(np.maximum(squares / len(self) - mean**2, 0))
        return FeatureStatistics(mean + shift, deviation, float(shortest), float(longest))


def open_features(names: Sequence[str | os.PathLike], *, kind: str) -> Features:
    """Open the features in `names` as one collection; `kind` is "images" or "texts".

    A name is a `.npy` or `.safetensors` file, or a folder that `embed` has written or that has one such file. Ids are
    read from `NAME.ids.jsonl` and the encoder from `NAME.json` next to a file. Raises `FileNotFoundError` and
    `ValueError`, with one sentence, for files that are missing, damaged, or do not fit together.
    """
    paths = [find_features(name, kind=kind) for name in names]
    arrays = [open_array(path) for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        if array.shape[1] != arrays[0].shape[1]:
            raise ValueError(
                f"{paths[0]} has {arrays[0].shape[1]} dimensions, but {path} has {array.shape[1]}. Use features of one "
                "encoder."
            )
    checksums = [sha256_of(path) for path in paths]
    encoders = [_read_encoder(path, checksum) for path, checksum in zip(paths, checksums, strict=True)]
    for path, encoder in zip(paths, encoders, strict=True):
        if encoder.get("fingerprint") != encoders[0].get("fingerprint"):
            raise ValueError(
                f"{paths[0]} and {path} were not computed by the same encoder. Use features of one encoder."
            )
    ids = [_read_ids(path, len(array)) for path, array in zip(paths, arrays, strict=True)]
    sources = tuple(
        {"source": os.fspath(name), "samples": len(array), "fingerprint": checksum[:16]}
        for name, array, checksum in zip(names, arrays, checksums, strict=True)
    )
    joined = None if None in ids else tuple(each for part in ids for each in part)
    return Features(tuple(arrays), joined, encoders[0], sources)


def describe(features: Features, statistics: FeatureStatistics, *, kind: str) -> str:
    """Return in one line what was read."""
    lengths = f"lengths {statistics.shortest:.3g} to {statistics.longest:.3g}"
    reading = "normalised" if statistics.unit_length else "not normalised"
    encoder = features.encoder.get("name", "an encoder without description")
    return (
        f"{kind}: {len(features):,} rows of {features.dim} dimensions, {features.parts[0].dtype}, {reading} "
        f"({lengths}), {'with' if features.ids else 'without'} ids, by {encoder}"
    )


def find_features(name: str | os.PathLike, *, kind: str) -> pathlib.Path:
    """Return the file of features that a name means: the file itself, or that of `kind` in a folder.

    Raises `FileNotFoundError` if there is none.
    """
    path = pathlib.Path(name).expanduser()
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder of features {path}.{nearest_path(path)}")
        return path
    own = next((path / (kind + suffix) for suffix in SUFFIXES if (path / (kind + suffix)).is_file()), None)
    if own is not None:
        return own
    found = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and each.stem not in _KINDS)
    if len(found) == 1:
        return found[0]
    listed = f" It has {', '.join(each.name for each in found[:5])}; name one of them." if found else ""
    raise FileNotFoundError(f"{path} has no {kind}.safetensors or {kind}.npy, as `embed --{kind}` writes it.{listed}")


def _read_encoder(path: pathlib.Path, checksum: str) -> dict[str, Any]:
    """Return what the description next to a file records of the encoder; raise `ValueError` for a changed file."""
    description = path.with_suffix(".json")
    if not description.is_file():
        return {}
    fields = read_json(description)
    if "checkpoint" not in fields:
        return {}
    if "rows" not in fields:
        raise ValueError(f"{description} describes embeddings that are not complete. Run the same `embed` again.")
    recorded = (fields.get("sha256") or {}).get(path.name)
    if recorded not in (None, checksum):
        raise ValueError(f"{path} is damaged or was changed: it does not have the checksum in {description.name}")
    names = {"name": "checkpoint_name", "fingerprint": "checkpoint", "options": "options", "weights": "weights"}
    return {ours: fields[theirs] for ours, theirs in names.items() if theirs in fields}


def _read_ids(path: pathlib.Path, rows: int) -> list[str] | None:
    """Return the ids next to a file, or None; numbers are written as text."""
    file = path.with_suffix(".ids.jsonl")
    if not file.is_file():
        return None
    try:
        values = [json.loads(line) for line in split_lines(file.read_text(encoding="utf-8")) if line]
    except ValueError as error:
        raise ValueError(f"{file} is not a file of ids, one JSON value per line") from error
    if len(values) != rows:
        raise ValueError(f"{file} has {len(values):,} ids, but {path.name} has {rows:,} rows. Write both again.")
    return [value if isinstance(value, str) else json.dumps(value) for value in values]

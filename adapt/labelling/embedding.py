"""Embed the pictures of a folder in the background; what is done is kept on disk, picture by picture."""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.embedding.encoder import Encoder
from adapt.labelling.pictures import PictureFolder
from data.sources.base import BadRecord
from foundation.files.array_files import load_array, save_array

PIECE_ROWS = 128
_PATTERN = "piece-*.npy"

OnFeatures = Callable[[Sequence[int], np.ndarray], None]
OnBad = Callable[[int, str], None]


class FeaturePiece(NamedTuple):
    """Some pictures: their states, and their features `[rows, dim]`, not normalised."""

    states: list[str]
    features: np.ndarray


class FeatureStore:
    """Features of pictures by their state, in files that are written once."""

    def __init__(self, folder: pathlib.Path, dim: int):
        self._folder = folder
        self._row = np.dtype([("state", "S16"), ("features", "<f4", (dim,))])

    def __iter__(self) -> Iterator[FeaturePiece]:
        """Yield the pieces that can be read; damaged ones are removed, so that they are computed again."""
        for path in sorted(self._folder.glob(_PATTERN)):
            rows = load_array(path, advice="Its pictures are embedded again")
            if rows is None or rows.dtype != self._row or not np.isfinite(rows["features"]).all():
                path.unlink(missing_ok=True)
                continue
            yield FeaturePiece([state.decode("ascii", "replace") for state in rows["state"]], rows["features"])

    def append(self, piece: FeaturePiece) -> None:
        """Write a piece, atomically."""
        if not piece.states:
            return
        rows = np.zeros(len(piece.states), self._row)
        rows["state"], rows["features"] = piece.states, piece.features
        numbers = [int(path.stem.rpartition("-")[2]) for path in self._folder.glob(_PATTERN)]
        save_array(self._folder / f"piece-{max(numbers, default=-1) + 1:06d}.npy", rows)


def load_stored(pictures: PictureFolder, store: FeatureStore, *, on_features: OnFeatures) -> dict[int, str]:
    """Call `on_features` with numbers and unit features of the stored pictures; return the states of all others."""
    states = {pictures.state(number): number for number in range(len(pictures))}
    for piece in store:
        rows = [row for row, state in enumerate(piece.states) if state in states]
        numbers = [states.pop(piece.states[row]) for row in rows]
        if numbers:
            on_features(numbers, normalize_numpy(piece.features[rows]))
    return {number: state for state, number in states.items()}


def embed_missing(
    pictures: PictureFolder,
    encoder: Encoder,
    store: FeatureStore,
    missing: Mapping[int, str],
    *,
    on_features: OnFeatures,
    on_bad: OnBad,
    stop: threading.Event,
) -> None:
    """Embed and store the pictures `missing`, by number with their states, in a fixed random order.

    `on_features` is called with numbers and unit features, `on_bad` with the number of a picture that cannot be read,
    and the reason. Returns when all are done, or soon after `stop` is set. Raises `ValueError` for features that are
    not finite.
    """
    order = [int(number) for number in pictures.shuffled() if int(number) in missing]
    for start in range(0, len(order), PIECE_ROWS):
        if stop.is_set():
            return
        numbers = order[start : start + PIECE_ROWS]
        bad: dict[int, BadRecord] = {}
        features = _embed(encoder, pictures, numbers, bad)
        good = [row for row in range(len(numbers)) if row not in bad]
        for row, error in bad.items():
            on_bad(numbers[row], str(error))
        broken = next((row for row in good if not np.isfinite(features[row]).all()), None)
        if broken is not None:
            raise ValueError(
                f"the embedding of {pictures.names[numbers[broken]]} is not finite. The checkpoint is broken, or its "
                "dtype overflows: try --dtype=float32."
            )
        store.append(FeaturePiece([missing[numbers[row]] for row in good], features[good]))
        if good:
            on_features([numbers[row] for row in good], normalize_numpy(features[good]))


def _embed(encoder: Encoder, pictures: PictureFolder, numbers: Sequence[int], bad: dict[int, BadRecord]) -> np.ndarray:
    """Return the features of pictures `[numbers, dim]`; `bad` gets the rows of those that cannot be read."""
    batches = encoder.iterate_images(lambda row: pictures.open(numbers[row]), range(len(numbers)), bad=bad)
    return np.concatenate(list(batches))


def store_folder(out: str | os.PathLike, encoder: Encoder) -> pathlib.Path:
    """Return the folder of the features of an encoder; another checkpoint or image size has another folder."""
    return pathlib.Path(out) / "embeddings" / encoder.image_fingerprint

"""Embeddings of evaluated images, made once, piece by piece, by all hosts together, and kept on disk."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import jax
import numpy as np

from adapt.encoder import Encoder
from data.fingerprint import fingerprint
from data.labelled import LabelledImages

VERSION = 3
PIECE = 2048  # rows

Progress = Callable[[str, int, int], None]


def embed_images(
    encoder: Encoder,
    images: LabelledImages,
    cache: str | os.PathLike,
    *,
    name: str,
    progress: Progress = lambda name, done, total: None,
) -> np.ndarray:
    """Returns embeddings `[n, dim]` float32, not normalised; pieces that are in `cache` are not made again.

    Their folder is named by a hash of weights, settings, preprocessing and images. Of several hosts each embeds its
    share; `cache` must be a folder that all of them see. Raises `ValueError` for embeddings that are not finite.
    """
    folder = pathlib.Path(cache) / f"images-{fingerprint(encoder.image_fingerprint, images.fingerprint)}-v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    count = len(images)
    starts = range(0, count, PIECE)
    done = 0
    for number, start in enumerate(starts):
        path, numbers = folder / f"{start:09d}.npy", range(start, min(start + PIECE, count))
        mine = number % jax.process_count() == jax.process_index()
        if mine and load_array(path, (len(numbers), encoder.dim)) is None:
            batches = []
            for batch in encoder.iterate_images(images.image, numbers):
                batches.append(batch)
                done += len(batch)
                progress(name, min(done, count - 1), count)
            embeddings = np.concatenate(batches)
            bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
            if len(bad):
                raise ValueError(f"the embedding of {images.key(start + int(bad[0]))} by {encoder.name} is not finite")
            save_array(path, embeddings)
        else:
            done += len(numbers)
        progress(name, min(done, count), count)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"embedded {folder.name}")
    pieces = []
    for start in starts:
        path = folder / f"{start:09d}.npy"
        piece = load_array(path, (min(PIECE, count - start), encoder.dim))
        if piece is None:
            raise ValueError(f"{path}, which another host embedded, is not here; name a folder that all hosts see")
        pieces.append(piece)
    return np.concatenate(pieces) if pieces else np.zeros((0, encoder.dim), np.float32)


def embed_texts(encoder: Encoder, class_names: Sequence[str], templates: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns unit class embeddings `[classes, dim]`: each prompt normalised, their mean normalised again."""
    found: dict[tuple[str, ...], np.ndarray] = {}
    texts = np.zeros((len(class_names), encoder.dim), np.float32)
    for each in dict.fromkeys(map(tuple, templates)):
        rows = [row for row, own in enumerate(templates) if tuple(own) == each]
        found[each] = encoder.embed_classes([class_names[row] for row in rows], each)
        texts[rows] = found[each]
    return texts


def load_array(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the array of a file, or None where it is not there, cut off, or of another shape."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape else None


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an `.npy` file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as temporary:
        partial = pathlib.Path(temporary) / path.name
        with open(partial, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

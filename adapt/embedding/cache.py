"""Embeddings that an evaluation needs, made once, piece by piece, by all hosts together, and kept on disk."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from adapt.embedding.encoder import Encoder, mean_of_prompts, prompts
from data.fewshot.labelled import LabelledImages
from data.io.fingerprint import fingerprint
from foundation.atomic import atomic_file

VERSION = 3
PIECE = 2048  # rows

Progress = Callable[[str, int, int], None]


class Hosts(NamedTuple):
    """Those that embed together: this one is `index` of `count`, and each makes its share of the pieces."""

    index: int = 0
    count: int = 1


ALONE = Hosts()


def all_hosts() -> Hosts:
    """Returns every host that JAX has joined."""
    return Hosts(jax.process_index(), jax.process_count())


def embed_images(
    encoder: Encoder,
    images: LabelledImages,
    cache: str | os.PathLike,
    *,
    name: str,
    hosts: Hosts | None = None,
    progress: Progress = lambda name, done, total: None,
) -> np.ndarray:
    """Returns embeddings `[n, dim]` float32, not normalised; pieces that are in `cache` are not made again.

    Their folder is named by a hash of weights, settings, preprocessing and images. Of several `hosts`, by default all,
    each embeds its share; `cache` must be a folder that all of them see. Raises `ValueError` for embeddings that are
    not finite.
    """
    folder = pathlib.Path(cache) / f"images-{fingerprint(encoder.image_fingerprint, images.fingerprint)}-v{VERSION}"
    return _embed(
        encoder,
        folder,
        len(images),
        lambda numbers: encoder.iterate_images(images.image, numbers),
        images.key,
        hosts=hosts or all_hosts(),
        progress=lambda done, total: progress(name, done, total),
    )


def embed_texts(
    encoder: Encoder, texts: Sequence[str], cache: str | os.PathLike, *, hosts: Hosts | None = None
) -> np.ndarray:
    """Returns embeddings of texts `[texts, dim]` float32, not normalised, made and kept as those of images are."""
    folder = pathlib.Path(cache) / f"texts-{fingerprint(encoder.fingerprint, *texts)}-v{VERSION}"
    return _embed(
        encoder,
        folder,
        len(texts),
        lambda numbers: encoder.iterate_texts(texts, numbers),
        lambda number: repr(texts[number]),
        hosts=hosts or all_hosts(),
    )


def embed_classes(
    encoder: Encoder,
    class_names: Sequence[str],
    templates: Sequence[Sequence[str]],
    cache: str | os.PathLike,
    *,
    hosts: Hosts | None = None,
) -> np.ndarray:
    """Returns unit class embeddings `[classes, dim]`: each prompt normalised, their mean normalised again."""
    found = np.zeros((len(class_names), encoder.dim), np.float32)
    for each in dict.fromkeys(map(tuple, templates)):
        rows = [row for row, own in enumerate(templates) if tuple(own) == each]
        texts = prompts([class_names[row] for row in rows], each)
        found[rows] = mean_of_prompts(embed_texts(encoder, texts, cache, hosts=hosts), len(each))
    return found


def _embed(
    encoder: Encoder,
    folder: pathlib.Path,
    count: int,
    embed: Callable[[range], Iterator[np.ndarray]],
    key: Callable[[int], str],
    *,
    hosts: Hosts,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, PIECE)
    done = 0
    for number, start in enumerate(starts):
        path, numbers = folder / f"{start:09d}.npy", range(start, min(start + PIECE, count))
        mine = number % hosts.count == hosts.index
        if mine and load_array(path, (len(numbers), encoder.dim)) is None:
            batches = []
            for batch in embed(numbers):
                batches.append(batch)
                done += len(batch)
                progress(min(done, count - 1), count)
            embeddings = np.concatenate(batches)
            bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
            if len(bad):
                raise ValueError(f"the embedding of {key(start + int(bad[0]))} by {encoder.name} is not finite")
            save_array(path, embeddings)
        else:
            done += len(numbers)
        progress(min(done, count), count)
    if hosts.count > 1:
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


def load_array(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the array of a file, or None where it is not there, cut off, or of another shape."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape else None


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an `.npy` file that is there whole or not at all."""
    with atomic_file(path) as partial:
        np.save(partial, array, allow_pickle=False)

"""A cache of embeddings on disk: computed once per checkpoint and collection, in pieces, by all hosts together."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from PIL import Image

from adapt.adapters.ops import normalize_numpy
from adapt.embedding.encoder import Encoder
from data.fewshot.labelled import LabelledImages
from data.io.fingerprint import fingerprint
from foundation.files.array_files import load_array, save_array

VERSION = 3  # of the cache; part of the names of its folders
PIECE_ROWS = 2048

Progress = Callable[[str, int, int], None]  # called with the name of the collection, the rows done and their total


class ImageEncoder(Protocol):
    """The part of an encoder that `embed_images` needs; `Encoder` and the baselines of an evaluation have it."""

    name: str
    settings: Any  # with a `dtype`
    dim: int
    image_fingerprint: str

    def iterate_images(self, image: Callable[[int], Image.Image], numbers: range) -> Iterator[np.ndarray]:
        """Yield the embeddings of `image(number)` for `numbers` batch by batch, `[rows, dim]` float32."""


class Hosts(NamedTuple):
    """The hosts that embed together: this one has number `index` of `count`, and computes every `count`-th piece."""

    index: int = 0
    count: int = 1


SINGLE_HOST = Hosts()


def all_hosts() -> Hosts:
    """Return the hosts of this JAX run."""
    return Hosts(jax.process_index(), jax.process_count())


def _no_progress(name: str, done: int, total: int) -> None:
    """Report nothing."""


def embed_images(
    encoder: ImageEncoder,
    images: LabelledImages,
    cache: str | os.PathLike,
    *,
    name: str,
    hosts: Hosts | None = None,
    progress: Progress = _no_progress,
) -> np.ndarray:
    """Return the embeddings of images `[n, dim]`, float32 and not normalised; cached pieces are not computed again.

    The folder in `cache` is named by a hash of weights, settings, preprocessing and images. If a head maps the features
    of a recorded encoder, these are cached, once for all heads. With several `hosts` (by
    default all), each computes a part, so `cache` must be a folder that all hosts share. Raises `ValueError` for
    embeddings that are not finite.
    """
    recorded = encoder.image_encoder if isinstance(encoder, Encoder) else encoder
    if recorded is not encoder:
        features = embed_images(recorded, images, cache, name=name, hosts=hosts, progress=progress)
        embeddings = encoder.apply_image_head(features)
        check_finite(embeddings, images.key, encoder)
        return embeddings
    folder = pathlib.Path(cache) / f"images-{fingerprint(encoder.image_fingerprint, images.fingerprint)}-v{VERSION}"
    collection = _Collection(
        encoder,
        folder,
        len(images),
        embed=lambda numbers: encoder.iterate_images(images.image, numbers),
        name_of=images.key,
    )
    return collection.embed_all(hosts or all_hosts(), progress=lambda done, total: progress(name, done, total))


def embed_texts(
    encoder: Encoder, texts: Sequence[str], cache: str | os.PathLike, *, hosts: Hosts | None = None
) -> np.ndarray:
    """Return the embeddings of texts `[texts, dim]`, float32 and not normalised, cached as in `embed_images`."""
    folder = pathlib.Path(cache) / f"texts-{fingerprint(encoder.fingerprint, *texts)}-v{VERSION}"
    collection = _Collection(
        encoder,
        folder,
        len(texts),
        embed=lambda numbers: encoder.iterate_texts(texts, numbers),
        name_of=lambda number: repr(texts[number]),
    )
    return collection.embed_all(hosts or all_hosts(), progress=lambda done, total: None)


def embed_classes(
    encoder: Encoder,
    class_names: Sequence[str],
    templates: Sequence[Sequence[str]],
    cache: str | os.PathLike,
    *,
    hosts: Hosts | None = None,
) -> np.ndarray:
    """Return class embeddings `[classes, dim]` of length 1, see `mean_of_prompts`.

    `templates` are the prompt templates of each class.
    """
    embeddings = np.zeros((len(class_names), encoder.dim), np.float32)
    for distinct in dict.fromkeys(map(tuple, templates)):
        rows = [row for row, own in enumerate(templates) if tuple(own) == distinct]
        texts = prompts([class_names[row] for row in rows], distinct)
        embeddings[rows] = mean_of_prompts(embed_texts(encoder, texts, cache, hosts=hosts), len(distinct))
    return embeddings


def check_finite(embeddings: np.ndarray, name_of: Callable[[int], object], encoder: ImageEncoder) -> None:
    """Raise `ValueError`, with the name of the row, for embeddings `[rows, dim]` that are not finite."""
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ValueError(
            f"the embedding of {name_of(int(bad[0]))} by {encoder.name} is not finite. The checkpoint is damaged or "
            f"overflows in {encoder.settings.dtype}; try float32."
        )


class _Collection(NamedTuple):
    """Rows to embed, and the folder of their pieces.

    embed: yields the embeddings of a range of rows, batch by batch.
    name_of: the name of a row in error messages.
    """

    encoder: ImageEncoder
    folder: pathlib.Path
    count: int
    embed: Callable[[range], Iterator[np.ndarray]]
    name_of: Callable[[int], str]

    def embed_all(self, hosts: Hosts, *, progress: Callable[[int, int], None]) -> np.ndarray:
        """Compute the missing pieces of this host, wait for the other hosts, and return all rows `[count, dim]`."""
        self._embed_pieces(hosts, progress)
        if hosts.count > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"embedded {self.folder.name}")
        return self._read_pieces()

    def _pieces(self) -> list[range]:
        return [range(start, min(start + PIECE_ROWS, self.count)) for start in range(0, self.count, PIECE_ROWS)]

    def _read(self, piece: range) -> np.ndarray | None:
        found = load_array(self._path(piece))
        return None if found is None or found.shape != (len(piece), self.encoder.dim) else found

    def _path(self, piece: range) -> pathlib.Path:
        return self.folder / f"{piece.start:09d}.npy"

    def _embed_pieces(self, hosts: Hosts, progress: Callable[[int, int], None]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        done = 0
        for number, piece in enumerate(self._pieces()):
            if number % hosts.count == hosts.index and self._read(piece) is None:
                batches = []
                for batch in self.embed(piece):
                    batches.append(batch)
                    done += len(batch)
                    progress(min(done, self.count - 1), self.count)  # complete only when it is on disk
                embeddings = np.concatenate(batches)
                check_finite(embeddings, lambda row, piece=piece: self.name_of(piece.start + row), self.encoder)
                save_array(self._path(piece), embeddings)
            else:
                done += len(piece)
            progress(min(done, self.count), self.count)

    def _read_pieces(self) -> np.ndarray:
        pieces = [np.zeros((0, self.encoder.dim), np.float32)]
        for piece in self._pieces():
            embeddings = self._read(piece)
            if embeddings is None:
                raise ValueError(
                    f"{self._path(piece)}, which another host computed, cannot be read here. Use a cache folder that "
                    "all hosts share."
                )
            pieces.append(embeddings)
        return np.concatenate(pieces)


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return the texts of all classes, with the texts of a class next to each other, `classes × templates` of them."""
    return [template.format(name) for name in class_names for template in templates]


def mean_of_prompts(embeddings: np.ndarray, templates: int) -> np.ndarray:
    """Return class embeddings `[classes, dim]` of length 1 from those of their prompts `[classes × templates, dim]`.

    The embedding of each prompt is normalised, and so is their mean per class.
    """
    prompt_embeddings = normalize_numpy(embeddings).reshape(len(embeddings) // templates, templates, -1)
    return normalize_numpy(prompt_embeddings.mean(axis=1))

"""Labelled sets as unsorted pictures with an oracle: features of the pictures to label, and of held-out queries."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.embedding.cache import SINGLE_HOST, embed_images
from adapt.embedding.encoder import Encoder
from data.fewshot.labelled import open_images, read_labels
from data.sources.open import open_source
from foundation.suggestions import unknown_name

ROOT = pathlib.Path(__file__).parents[2]
CACHE = ROOT / "runs" / "labelling"
# set → sources of the pictures and of the queries; a set with one source is split at random, 60 % and 40 %.
PICTURES = {
    **{
        name: (f"{{data}}/targets/{name}/train-*.tar", f"{{data}}/targets/{name}/test-*.tar")
        for name in ("caltech101", "gtsrb", "neu_det", "brain_tumor", "wbc", "intel", "flowers5")
    },
    **{name: (f"photos:{name}:train", f"photos:{name}:test") for name in ("trashnet", "clothing", "signdigits")},
    **{f"pacs_{name}": (f"{{data}}/targets/pacs/{name}-*.tar",) for name in ("photo", "art_painting", "sketch")},
    "icons": ("icons:train",),
}
CLIP = {"clip_caltech101": "caltech101", "clip_flowers": "oxford_flowers", "clip_imagenet": "imagenet_a"}
NAMES = (*PICTURES, *CLIP)
PUBLIC = ("trashnet", "clothing", "signdigits", "icons")  # they need no download
UNEVEN = ":uneven"
_ICON_CLASSES, _ICONS_PER_CLASS = 100, 25  # the largest classes, and at most their first icons
_SMALLEST = 0.05  # share of the pictures that the rarest class of an uneven set keeps


class LabelledSet(NamedTuple):
    """Unit features of the pictures to label `[n, dim]` and of queries `[m, dim]`, with labels from 0."""

    pictures: np.ndarray
    labels: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray

    @property
    def num_classes(self) -> int:
        """The number of classes of pictures and queries."""
        return int(max(self.labels.max(), self.query_labels.max())) + 1


def open_set(name: str, *, data: pathlib.Path | None) -> LabelledSet:
    """Open a set by name; with the ending ":uneven", its classes have between 5 % and all of their pictures.

    Raises `ValueError` for an unknown name and for a set whose data are in no folder that was given.
    """
    base, uneven = name.removesuffix(UNEVEN), name.endswith(UNEVEN)
    if base not in NAMES:
        raise ValueError(f"{unknown_name('set', base, NAMES)}. Known: {', '.join(NAMES)}.")
    if data is None and base not in PUBLIC:
        raise ValueError(f"{base} is not included. Pass --data=FOLDER with its data, or use {', '.join(PUBLIC)}.")
    found = _read_clip(data, base) if base in CLIP else _embed(data, base)
    return _make_uneven(found) if uneven else found


def _read_clip(data: pathlib.Path, name: str) -> LabelledSet:
    parts = ((1, 2), (4,)) if name == "clip_imagenet" else (("16", "val"), ("test",))
    with np.load(data / "features" / f"{CLIP[name]}.npz", allow_pickle=False) as arrays:
        sides = []
        for part in parts:
            keys = [key if key in ("val", "test") else f"support_{key}" for key in map(str, part)]
            labels = [key.replace("support", "support_labels") if "_" in key else f"{key}_labels" for key in keys]
            features = np.concatenate([arrays[key].astype(np.float32) for key in keys])
            sides += [normalize_numpy(features), np.concatenate([arrays[key] for key in labels])]
    return LabelledSet(*sides)


def _embed(data: pathlib.Path | None, name: str) -> LabelledSet:
    sides = [_embed_source(source.format(data=data)) for source in PICTURES[name]]
    if len(sides) == 2:
        return LabelledSet(*sides[0], *sides[1])
    [(features, labels)] = sides
    order = np.random.default_rng(0).permutation(len(labels))
    first, rest = np.split(order, [round(0.6 * len(labels))])
    return LabelledSet(features[first], labels[first], features[rest], labels[rest])


@functools.cache
def _encoder() -> Encoder:
    return Encoder(ROOT / "checkpoints" / "photos")


def _embed_source(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit features and labels of a source, embedded by checkpoints/photos and cached."""
    source = open_source(name, CACHE)
    labels = read_labels(name, source, data_dir=CACHE)
    images = open_images(source, labels)
    numbers = np.asarray(labels.values)[labels.labels]
    if name.startswith("icons"):
        largest = np.argsort(-np.bincount(labels.labels), kind="stable")[:_ICON_CLASSES]
        rows = np.concatenate([np.flatnonzero(labels.labels == label)[:_ICONS_PER_CLASS] for label in largest])
        numbers = np.repeat(np.arange(_ICON_CLASSES), [np.sum(labels.labels[rows] == label) for label in largest])
        images = images.take(rows, numbers)
    features = embed_images(_encoder(), images, CACHE / "cache", name=name, hosts=SINGLE_HOST)
    return normalize_numpy(features), numbers


def _make_uneven(found: LabelledSet) -> LabelledSet:
    """Return the set with random parts of its classes: shares fall geometrically, in random order of the classes."""
    rng = np.random.default_rng(1)
    classes = np.unique(found.labels)
    shares = _SMALLEST ** (rng.permutation(len(classes)) / max(len(classes) - 1, 1))
    rows: Sequence[np.ndarray] = []
    for label, share in zip(classes, shares, strict=True):
        members = rng.permutation(np.flatnonzero(found.labels == label))
        rows = [*rows, members[: max(2, round(share * len(members)))]]
    kept = np.sort(np.concatenate(rows))
    return found._replace(pictures=found.pictures[kept], labels=found.labels[kept])

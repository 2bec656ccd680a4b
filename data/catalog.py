"""Labelled image sets for few-shot evaluation, by name."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from data.fingerprint import fingerprint
from data.images import decode
from data.records import Source
from data.sources import open_source


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images with class numbers `labels` `[n]` in [0, classes), class names, and prompt templates with one `{}`.

    `image(i)` returns image i as RGB; `fingerprint` changes when the images do.
    """

    name: str
    labels: np.ndarray
    class_names: Sequence[str]
    templates: Sequence[str]
    image: Callable[[int], Image.Image]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)


def load_labelled(name: str, data_dir: str | os.PathLike, *, min_examples: int) -> LabelledImages:
    """Opens a set by name, without the classes that have fewer than `min_examples` examples.

    Names: `digits` (scikit-learn's 8 × 8 handwritten digits), or any source of `data.sources` whose samples have
    `label` and `class`. Raises `ValueError` where no class is left.
    """
    try:
        images = _digits() if name == "digits" else _from_source(name, open_source(name, data_dir))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}, digits") from error
    counts = np.bincount(images.labels, minlength=len(images.class_names))
    kept = np.flatnonzero(counts >= min_examples)
    if len(kept) < 2:
        raise ValueError(
            f"{name}: {len(kept)} of {len(counts)} classes have at least {min_examples} examples (the largest has "
            f"{counts.max()}); ask for fewer shots or a lower evaluate.min_examples"
        )
    rows = np.flatnonzero(np.isin(images.labels, kept))
    return dataclasses.replace(
        images,
        labels=np.searchsorted(kept, images.labels[rows]),
        class_names=[images.class_names[label] for label in kept],
        image=lambda index: images.image(rows[index]),
        fingerprint=fingerprint(images.fingerprint, rows),
    )


def _digits() -> LabelledImages:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.clip(255 - digits.images * 16, 0, 255).astype(np.uint8)  # dark ink on white
    return LabelledImages(
        name="digits",
        labels=digits.target,
        class_names=["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
        templates=["{}", "the digit {}"],
        image=lambda index: Image.fromarray(pixels[index]).convert("RGB"),
        fingerprint=fingerprint(pixels),
    )


def _from_source(name: str, source: Source) -> LabelledImages:
    records = [source[index] for index in range(len(source))]
    unlabelled = next((record for record in records if record.label is None or record.class_name is None), None)
    if unlabelled is not None:
        raise ValueError(f"{name}: {unlabelled.key} has no label or class; it cannot serve for few-shot evaluation")
    names: dict[int, str] = collections.defaultdict(str)
    for record in records:
        if names.setdefault(record.label, record.class_name) != record.class_name:
            raise ValueError(f"{name}: label {record.label} is {names[record.label]!r} and {record.class_name!r}")
    return LabelledImages(
        name=name,
        labels=np.array([record.label for record in records]),
        class_names=[_in_words(names[label]) for label in range(max(names) + 1)],
        templates=["{}"],
        image=lambda index: decode(records[index].image, records[index].key),
        fingerprint=fingerprint(*(record.image for record in records)),
    )


def _in_words(class_name: str) -> str:
    """Returns the name as a text would have it: identifiers such as `face-smiling` and `red_fox` in words."""
    return class_name.replace("_", " ").replace("-", " ")

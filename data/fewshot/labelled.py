"""Labelled images: the settings of a few-shot dataset, its images and labels, and class names in words."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import decode
from data.sources.base import Source
from foundation.files.atomic import atomic_file
from foundation.suggestions import unknown_name

logger = logging.getLogger(__name__)

Metric = Literal["accuracy", "mean_per_class_accuracy"]
Draws = Literal["nested", "coop"]
DEFAULT_TEMPLATE = "a photo of a {}."
_CACHE_FOLDER = ".labels"
_THREADS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """Settings of a labelled dataset: its sources, class names and prompt templates.

    `support` and `query` are sources (see `data.sources.open`) whose samples have `label`, `class` or both. Support
    images are drawn from `support`. Queries are the images of `query` or, without it, the images of `support` that were
    not drawn. `validation` documents the split on which the literature selects hyper-parameters; it is not used.
    `shifts` are names of datasets whose queries show the same classes, or some of them, in another domain.
    `class_names` are the classes in words, in the order of their labels; if empty, they are derived from the names in
    the samples or, for shards without names, read from `classnames.txt`. `template` is the single prompt of a class: if
    None, that of an embedded dataset, otherwise `DEFAULT_TEMPLATE`. `templates` is the ensemble (if empty, the single
    one). `draws` is "nested", where the support of k shots is the first
    k images of one draw, or "coop", which reproduces the published few-shot lists. `title`, `licence` and
    `templates_source` are documentation.
    """

    support: str | None = None
    query: str | None = None
    validation: str | None = None
    shifts: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    template: str | None = None
    templates: tuple[str, ...] = ()
    metric: Metric = "accuracy"
    draws: Draws = "nested"
    title: str = ""
    licence: str = ""
    templates_source: str = ""

    def __post_init__(self) -> None:
        for name, known in (("metric", get_args(Metric)), ("draws", get_args(Draws))):
            if getattr(self, name) not in known:
                raise ValueError(unknown_name(name, getattr(self, name), known))
        if self.support is None and self.query is None:
            raise ValueError("a dataset needs a support, a query, or both. Each is a source such as /data/train-*.tar.")
        for template in filter(None, (self.template, *self.templates)):
            if template.count("{}") != 1:
                raise ValueError(
                    f"the template {template!r} must contain exactly one {{}}, the place of the class name"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images with class labels `[n]`; −1 labels an image of an unknown class.

    `image(i)` returns image i as RGB and `key(i)` its key; `image` is None where only features are stored.
    `fingerprint` changes with images and labels. A subset of other images has them as `parent`, and its indices there
    as `rows`.
    """

    labels: np.ndarray
    image: Callable[[int], Image.Image] | None
    key: Callable[[int], str]
    fingerprint: str
    parent: LabelledImages | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray, labels: np.ndarray) -> LabelledImages:
        """Return a subset of the images with new labels."""
        return LabelledImages(
            labels=labels,
            image=None if self.image is None else lambda index: self.image(int(rows[index])),
            key=lambda index: self.key(int(rows[index])),
            fingerprint=fingerprint(self.fingerprint, rows, labels),
            parent=self.parent or self,
            rows=rows if self.rows is None else self.rows[rows],
        )


class Labels(NamedTuple):
    """The labels of all samples of a source `[n]`, numbered from 0 in the order of the labels in the samples.

    `class_names` has the name of each class, empty if the samples have none, and `values` its label in the samples.
    `fingerprint` is a hash of images and labels.
    """

    labels: np.ndarray
    class_names: Sequence[str]
    values: Sequence[int]
    fingerprint: str


def read_labels(name: str, source: Source, *, data_dir: str | os.PathLike) -> Labels:
    """Read the labels of all samples of a source; they are cached in `data_dir` until the source changes.

    Samples without labels are labelled by the order of their class names. If some labels are words, or have leading
    zeros, all are class names, which is logged. `name` identifies the dataset in errors.
    Raises `ValueError` for a sample without label if others have one, for one without label and class name, and for a
    label with two class names.
    """
    stamp = source.content_fingerprint()
    path = pathlib.Path(data_dir) / _CACHE_FOLDER / f"{stamp}-v3.npz"
    if stamp is not None:
        cached = _load(path)
        if cached is not None:
            return cached
    digest = hashlib.sha256()
    found: list[int | str] = []  # the label of each sample or, if it has none, its class name
    names: dict[int | str, str] = {}
    mixed: dict[type, str] = {}  # kind of values → key of the first sample
    are_words = True  # class names without labels are labels in words

    def read(index: int) -> tuple[bytes, int | None, str | None, str, bool]:
        record = source[index]
        is_word = record.label is None and not record.metadata.get("class")
        return hashlib.sha256(record.image).digest(), record.label, record.class_name, record.key, is_word

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        for image, label, class_name, key, is_word in _prefetch(threads, read, len(source)):
            value = class_name if label is None else label
            if value is None or (label is not None and label < 0):
                raise _no_class(name, key)
            if class_name is not None and names.setdefault(value, class_name) != class_name:
                raise ValueError(
                    f"{name}: label {label} is both {names[value]!r} and {class_name!r}. Give each class its own label."
                )
            mixed.setdefault(type(value), key)
            are_words &= label is not None or is_word
            digest.update(image)
            found.append(value)
    if len(mixed) > 1:
        if not are_words or any(isinstance(value, int) for value in names):
            raise _no_class(name, list(mixed.values())[1])
        word = next(value for value in found if isinstance(value, str))
        found = list(map(str, found))
        logger.info(f"{name}: all labels are taken as class names, as some are not numbers, such as {word!r}")
    known = list(getattr(source, "class_names", ()))
    values = sorted({*found, *range(len(known) if isinstance(found[0], int) else 0)})
    number_of = {value: number for number, value in enumerate(values)}
    array = np.array([number_of[value] for value in found], np.int64)
    if isinstance(found[0], str):
        values, class_names = list(range(len(values))), values
    else:
        class_names = [names.get(value, known[value] if value < len(known) else "") for value in values]
    content = [digest.digest(), array, json.dumps(class_names)]
    if values != list(range(len(values))):
        content.append(json.dumps(values))
    result = Labels(array, class_names, values, fingerprint(*content))
    if stamp is not None:
        _save(path, result)
    return result


def _no_class(name: str, key: str) -> ValueError:
    return ValueError(
        f"{name}: {key} has no label or no class. Few-shot evaluation needs a label, which is not negative, or a class "
        "name for every sample."
    )


def in_words(class_name: str) -> str:
    """Return a class name in words: identifiers such as `face-smiling` and `red_fox` lose their punctuation."""
    return " ".join(class_name.replace("_", " ").replace("-", " ").split()) or class_name


def open_images(source: Source, labels: Labels) -> LabelledImages:
    """Return the images of a source with their labels from `read_labels`."""

    def image(index: int) -> Image.Image:
        record = source[index]
        return decode(record.image, record.key)

    return LabelledImages(labels=labels.labels, image=image, key=source.key, fingerprint=labels.fingerprint)


def _prefetch(threads: concurrent.futures.Executor, read: Callable[[int], Any], count: int) -> Iterator[Any]:
    """Yield `read(0)` … `read(count − 1)`, prefetched within a bounded window to limit memory."""
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    for index in range(count):
        pending.append(threads.submit(read, index))
        if len(pending) > 4 * _THREADS:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _load(path: pathlib.Path) -> Labels | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            classes = json.loads(arrays["classes"].tobytes())
            return Labels(arrays["labels"], classes["names"], classes["values"], str(arrays["fingerprint"]))
    except Exception:  # missing, or damaged in one of many ways: read the samples again
        return None


def _save(path: pathlib.Path, labels: Labels) -> None:
    text = json.dumps({"names": list(labels.class_names), "values": list(labels.values)})
    classes = np.frombuffer(text.encode(), np.uint8)
    with atomic_file(path) as temporary:
        np.savez(temporary, labels=labels.labels, classes=classes, fingerprint=np.array(labels.fingerprint))

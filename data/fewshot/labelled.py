"""Labelled image sets: what an evaluation draws examples from and asks about, with names and texts of the classes."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import decode
from data.sources.base import Source

METRICS = ("accuracy", "mean_per_class_accuracy")
DRAWS = ("nested", "coop")
_FOLDER = ".labels"
_THREADS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """Where a labelled set lies and how its classes are put in words.

    `support` and `query` are names of `data.sources` whose samples have `label` and `class`: examples are drawn from
    the first, the second is asked about; without `query` that is what is not drawn. `validation`, what the field
    chooses settings on, is for the reader: nothing is chosen on it here. `shifts` are names of
    other sets whose queries are of these classes or of some of them, in another domain. `class_names` words the
    classes, in the order of their numbers; empty, the names that the samples have are put in words. `template` is the
    one text of a class, `templates` the ensemble (empty: the one). `draws` is "nested", supports of k shots being the
    first k of one draw, or "coop", as the published few-shot lists were drawn. `title`, `licence` and
    `templates_source` are for the reader.
    """

    support: str | None = None
    query: str | None = None
    validation: str | None = None
    shifts: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    template: str = "a photo of a {}."
    templates: tuple[str, ...] = ()
    metric: str = "accuracy"
    draws: str = "nested"
    title: str = ""
    licence: str = ""
    templates_source: str = ""

    def __post_init__(self) -> None:
        if self.support is None and self.query is None:
            raise ValueError("a dataset needs a support, a query or both, each a source such as /data/train-*.tar")
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}; known: {', '.join(METRICS)}")
        if self.draws not in DRAWS:
            raise ValueError(f"unknown draws {self.draws!r}; known: {', '.join(DRAWS)}")
        for template in (self.template, *self.templates):
            if template.count("{}") != 1:
                raise ValueError(f"the template {template!r} must have one {{}}, where the class goes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images with class numbers `labels` `[n]`; of a class that the set does not know the number is −1.

    `image(i)` returns image i as RGB, `key(i)` names it; `fingerprint` changes when images or labels do. Where these
    are the `rows` of other images, `parent` are those.
    """

    labels: np.ndarray
    image: Callable[[int], Image.Image]
    key: Callable[[int], str]
    fingerprint: str
    parent: LabelledImages | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray, labels: np.ndarray) -> LabelledImages:
        """Returns some of the images, with other labels."""
        return LabelledImages(
            labels=labels,
            image=lambda index: self.image(int(rows[index])),
            key=lambda index: self.key(int(rows[index])),
            fingerprint=fingerprint(self.fingerprint, rows, labels),
            parent=self.parent or self,
            rows=rows if self.rows is None else self.rows[rows],
        )


class Labels(NamedTuple):
    """What the samples of a source say: class numbers `[n]`, the name of each class, a hash of images and labels."""

    labels: np.ndarray
    class_names: Sequence[str]
    fingerprint: str


def read_labels(name: str, source: Source, data_dir: str | os.PathLike) -> Labels:
    """Reads all samples of a source once; what they say is kept in `data_dir` for as long as the source stays the same.

    Raises `ValueError` for a sample without label or class, and where two names stand for one number.
    """
    stamp = source.content_fingerprint()
    path = pathlib.Path(data_dir) / _FOLDER / f"{stamp}-v1.npz"
    if stamp is not None:
        found = _load(path)
        if found is not None:
            return found
    digest, labels = hashlib.sha256(), []
    names: dict[int, str] = {}

    def read(index: int) -> tuple[bytes, int | None, str | None, str]:
        record = source[index]
        return hashlib.sha256(record.image).digest(), record.label, record.class_name, record.key

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        for image, label, class_name, key in _ahead(threads, read, len(source)):
            if label is None or class_name is None or label < 0:
                raise ValueError(f"{name}: {key} has no label or class; it cannot serve for few-shot evaluation")
            if names.setdefault(label, class_name) != class_name:
                raise ValueError(f"{name}: label {label} is {names[label]!r} and {class_name!r}")
            digest.update(image)
            labels.append(label)
    known = list(getattr(source, "class_names", ()))
    count = max(max(names) + 1, len(known))
    class_names = [names.get(label, known[label] if label < len(known) else "") for label in range(count)]
    array = np.array(labels, np.int64)
    found = Labels(array, class_names, fingerprint(digest.digest(), array, json.dumps(class_names)))
    if stamp is not None:
        _save(path, found)
    return found


def in_words(class_name: str) -> str:
    """Returns the name as a text would have it: identifiers such as `face-smiling` and `red_fox` in words."""
    return " ".join(class_name.replace("_", " ").replace("-", " ").split())


def open_images(source: Source, labels: Labels) -> LabelledImages:
    """Returns the images of a source with what `read_labels` found there."""

    def image(index: int) -> Image.Image:
        record = source[index]
        return decode(record.image, record.key)

    return LabelledImages(labels=labels.labels, image=image, key=source.key, fingerprint=labels.fingerprint)


def _ahead(threads: concurrent.futures.Executor, read: Callable[[int], Any], count: int) -> Iterator[Any]:
    """Yields `read(0)` … `read(count − 1)`, read a little ahead, so that the whole never lies in memory."""
    coming: collections.deque[concurrent.futures.Future] = collections.deque()
    for index in range(count):
        coming.append(threads.submit(read, index))
        if len(coming) > 4 * _THREADS:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _load(path: pathlib.Path) -> Labels | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = json.loads(arrays["class_names"].tobytes())
            return Labels(arrays["labels"], names, str(arrays["fingerprint"]))
    except FileNotFoundError:
        return None
    except Exception:
        return None


def _save(path: pathlib.Path, found: Labels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.frombuffer(json.dumps(list(found.class_names)).encode(), np.uint8)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        partial = pathlib.Path(temporary) / path.name
        np.savez(partial, labels=found.labels, class_names=names, fingerprint=np.array(found.fingerprint))
        os.replace(partial, path)

"""Open labelled datasets by name: from the catalogue, from a config, or from a folder or shards."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from data.fewshot import clip_benchmark
from data.fewshot.catalog import CATALOGUE
from data.fewshot.class_words import choose_words, find_class_words
from data.fewshot.labelled import DatasetSettings, LabelledImages, open_images, read_labels
from data.io.fingerprint import fingerprint
from data.sources.open import open_source
from foundation.suggestions import did_you_mean

_SPLIT_FILE = re.compile(r"(?P<split>.+?)-\d+(-of-\d+)?\.tar")
_SUPPORT_SPLITS = ("train", "training")
_QUERY_SPLITS = ("test", "testing", "val", "valid", "validation")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """An open labelled dataset: class names in words, and the images of its parts, all with the same labels.

    Without `query`, support and query images are both drawn from `support`. A dataset without `support` serves only as
    query set of another. `notes` are sentences about classes that were left out.
    """

    name: str
    settings: DatasetSettings
    class_names: tuple[str, ...]
    support: LabelledImages | None
    query: LabelledImages | None
    shifts: Mapping[str, LabelledImages] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def templates(self) -> tuple[str, ...]:
        """The ensemble of prompt templates."""
        return self.settings.templates or (self.settings.template,)

    @property
    def fingerprint(self) -> str:
        """A hash of the images and labels of support and query, and of the class names."""
        parts = (self.support, self.query)
        return fingerprint(*("" if part is None else part.fingerprint for part in parts), *self.class_names)


@dataclasses.dataclass(frozen=True)
class _LabelledSource:
    images: LabelledImages
    class_names: Sequence[str]  # distinct, by label: as in the samples or, if they have none, as in `words`
    words: Sequence[str]  # empty if the samples have no class names and there is no list of them
    values: Sequence[int]  # the labels in the samples


@dataclasses.dataclass(frozen=True)
class _SelectedClasses:
    new_labels: Mapping[str, int]  # class name as in the samples → label in the opened dataset
    words: tuple[str, ...]
    notes: tuple[str, ...]


def open_dataset(
    name: str,
    data_dir: str | os.PathLike,
    *,
    custom_datasets: Mapping[str, DatasetSettings] | None = None,
    min_examples: int = 0,
    with_shifts: bool = True,
) -> Dataset:
    """Open a dataset: one of `custom_datasets` or of the catalogue, `digits` (scikit-learn's), or a path.

    A folder may hold the splits of a dataset: `train-00000.tar` … and `test-00000.tar` …, or folders `train/` and
    `test/` of shards or class folders. `FOLDER:SUPPORT:QUERY` names two of its splits. Support and query images are
    both drawn from any other source (see `data.sources.open`) whose samples have `label` and `class`. Classes with
    fewer than `min_examples` images are left out. `with_shifts=False` does not open the images of other domains.

    Raises `FileNotFoundError` or `ValueError` if the dataset does not exist or is unsuitable.
    """
    if name == "digits":
        return _open_digits()
    custom = custom_datasets or {}
    settings = find_settings(name, custom)
    sources = {
        part: _open_labelled_source(name, getattr(settings, part), data_dir=data_dir)
        for part in ("support", "query")
        if getattr(settings, part) is not None
    }
    classes = _select_classes(name, settings, first=next(iter(sources.values())), min_examples=min_examples)
    notes = list(classes.notes)
    if "query" in sources:
        notes += _note_unknown_classes(sources["query"], classes.new_labels)
    parts = {part: _relabel(source, classes.new_labels) for part, source in sources.items()}
    shifts = {}
    for other in settings.shifts if with_shifts else ():
        target = find_settings(other, custom)
        source = _open_labelled_source(other, target.query or target.support, data_dir=data_dir)
        shifts[other] = _relabel(source, classes.new_labels)
        if not len(shifts[other]):
            raise ValueError(f"{other} has no class of {name}, so it cannot be one of its shifts")
    return Dataset(
        name=short_name(name, custom),
        settings=settings if name in custom or name in CATALOGUE else clip_benchmark.with_templates(settings),
        class_names=classes.words,
        support=parts.get("support"),
        query=parts.get("query"),
        shifts=shifts,
        notes=tuple(notes),
    )


def find_settings(name: str, custom_datasets: Mapping[str, DatasetSettings]) -> DatasetSettings:
    """Return the settings of a dataset; for a path, they follow from the content of its folder."""
    for known in (custom_datasets, CATALOGUE):
        if name in known:
            return known[name]
    folder, support, query = (*name.rsplit(":", 2), "", "")[:3] if name.count(":") >= 2 else (name, "", "")
    splits = _find_splits(os.path.expanduser(folder))
    if support and splits:
        for split in (support, query):
            if split not in splits:
                raise ValueError(
                    f"{folder} has no split {split!r}.{did_you_mean(split, splits)} It has: {', '.join(splits)}."
                )
        return DatasetSettings(support=splits[support], query=splits[query])
    train, test = (next(filter(splits.__contains__, names), None) for names in (_SUPPORT_SPLITS, _QUERY_SPLITS))
    if train and test:
        return DatasetSettings(support=splits[train], query=splits[test])
    if splits:
        raise ValueError(
            f"{folder} has the splits {', '.join(splits)}, which are not a train and a test split. Name the support "
            f"and the query split, for example {folder}:{next(iter(splits))}:{list(splits)[-1]}."
        )
    return DatasetSettings(support=name)


def short_name(name: str, custom_datasets: Mapping[str, DatasetSettings]) -> str:
    """Return the name of a dataset in results: the last part of a path, any other name unchanged."""
    if name in custom_datasets or name in CATALOGUE or os.sep not in name:
        return name
    return os.path.basename(name.rstrip("/"))


def _open_labelled_source(name: str, source_name: str, *, data_dir: str | os.PathLike) -> _LabelledSource:
    path = source_name.replace("{data_dir}", os.fspath(data_dir))
    if source_name == name:
        source = open_source(path, data_dir, other_names=("digits", *CATALOGUE))
    else:
        try:
            source = open_source(path, data_dir)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name}: {error}") from error
    clip_benchmark.check_num_shards(path)
    labels = read_labels(name, source, data_dir=data_dir)
    names, words = find_class_words(path, labels)
    return _LabelledSource(open_images(source, labels), names, words, labels.values)


def _select_classes(
    name: str, settings: DatasetSettings, *, first: _LabelledSource, min_examples: int
) -> _SelectedClasses:
    """Choose the classes of the first source that have enough images, and number them consecutively."""
    names, least = first.class_names, max(min_examples, 1)
    counts = np.bincount(first.images.labels, minlength=len(names))
    words = choose_words(name, settings.class_names, first.words, first.values)
    kept = np.flatnonzero(counts >= least)
    if len(kept) < 2:
        raise ValueError(
            f"{name}: {len(kept)} of {len(counts)} classes have at least {least} images (the largest has "
            f"{counts.max()}), and two are needed. Lower evaluate.min_examples."
        )
    new_labels = {names[label]: number for number, label in enumerate(kept)}
    if len(new_labels) < len(kept):
        kept_names = [names[label] for label in kept]
        repeated = next(each for each in kept_names if kept_names.count(each) > 1)
        raise ValueError(f"{name}: two classes are named {repeated!r}. Give each its own name in the samples' `class`.")
    left_out = len(counts) - len(kept)
    notes = (f"{left_out} of {len(counts)} classes have too few images and are left out",) if left_out else ()
    return _SelectedClasses(new_labels, tuple(words[label] for label in kept), notes)


def _note_unknown_classes(source: _LabelledSource, new_labels: Mapping[str, int]) -> list[str]:
    present = {source.class_names[label] for label in np.unique(source.images.labels)}
    unknown = present - set(new_labels)
    if not unknown:
        return []
    return [f"{len(unknown)} query classes, such as {min(unknown)!r}, have no support images and are left out"]


def _relabel(source: _LabelledSource, new_labels: Mapping[str, int]) -> LabelledImages:
    """Return the images of known classes with their new labels."""
    labels = np.array([new_labels.get(name, -1) for name in source.class_names], np.int64)[source.images.labels]
    rows = np.flatnonzero(labels >= 0)
    return source.images.take(rows, labels[rows])


def _find_splits(folder: str) -> dict[str, str]:
    """Return the splits in a folder and their sources: shards, folders of shards, or folders of class folders."""
    if not os.path.isdir(folder):
        return {}
    names = sorted(os.listdir(folder))
    matches = [match for match in map(_SPLIT_FILE.fullmatch, names) if match]
    if matches:
        return {match["split"]: os.path.join(folder, f"{match['split']}-*.tar") for match in matches}
    known = [name for name in names if name in (*_SUPPORT_SPLITS, *_QUERY_SPLITS)]
    sources = {name: _split_source(os.path.join(folder, name)) for name in known}
    splits = {name: source for name, source in sources.items() if source is not None}
    return splits if len(splits) > 1 else {}


def _split_source(path: str) -> str | None:
    """Return the source in the folder of a split: its class folders or its shards."""
    if not os.path.isdir(path):
        return None
    entries = list(os.scandir(path))
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
        return path
    return os.path.join(path, "*.tar") if any(entry.name.endswith(".tar") for entry in entries) else None


def _open_digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.clip(255 - digits.images * 16, 0, 255).astype(np.uint8)  # dark ink on white
    images = LabelledImages(
        labels=digits.target,
        image=lambda index: Image.fromarray(pixels[index]).convert("RGB"),
        key=lambda index: f"digits/{index}",
        fingerprint=fingerprint(pixels, digits.target),
    )
    settings = DatasetSettings(support="digits", template="the digit {}", templates=("{}", "the digit {}"))
    return Dataset(name="digits", settings=settings, class_names=_DIGITS, support=images, query=None)

"""Opens labelled sets by name: those of the catalogue, those of a config, and whatever lies in a folder or shards."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from data.fewshot.catalog import CATALOGUE
from data.fewshot.labelled import DatasetSettings, LabelledImages, in_words, open_images, read_labels
from data.io.fingerprint import fingerprint
from data.sources.open import open_source

_SPLIT_FILE = re.compile(r"(?P<split>.+?)-\d+(-of-\d+)?\.tar")
_SUPPORT_SPLITS = ("train", "training")
_QUERY_SPLITS = ("test", "testing", "val", "valid", "validation")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A labelled set, opened: its classes in words, and the images of its parts, all with the same class numbers.

    Without `query` examples and queries are drawn from `support`; a set without `support` only tests others. `notes`
    are sentences about what was left out.
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
        """The ensemble of texts of a class."""
        return self.settings.templates or (self.settings.template,)

    @property
    def fingerprint(self) -> str:
        """A hash of the images and labels to draw from and to ask about, and of the names of the classes."""
        parts = (self.support, self.query)
        return fingerprint(*("" if part is None else part.fingerprint for part in parts), *self.class_names)


def open_dataset(
    name: str,
    data_dir: str | os.PathLike,
    *,
    custom_datasets: Mapping[str, DatasetSettings] | None = None,
    min_examples: int = 0,
    with_shifts: bool = True,
) -> Dataset:
    """Opens a set: one of `own`, of the catalogue, `digits` (scikit-learn's), or by where it lies.

    A folder may hold the splits of a set, `train-00000.tar` … and `test-00000.tar` … or folders `train/` and `test/` of
    shards or of class folders; `FOLDER:SUPPORT:QUERY` names two of its splits. Any other source of `data.sources` whose
    samples have `label` and `class` is one pool to draw examples and queries from. Classes with fewer than
    `min_examples` examples are left out, and without `with_shifts` the images of other domains. Raises
    `FileNotFoundError` or `ValueError` where there is no such set or it cannot serve.
    """
    if name == "digits":
        return _digits()
    settings = find_settings(name, custom_datasets or {})
    opened = {
        part: _open(name, getattr(settings, part), data_dir)
        for part in ("support", "query")
        if getattr(settings, part) is not None
    }
    first = opened["support" if "support" in opened else "query"]
    raw_names, counts = first.raw_names, np.bincount(first.images.labels, minlength=len(first.raw_names))
    if settings.class_names and len(settings.class_names) != len(raw_names):
        raise ValueError(f"{name} has {len(raw_names)} classes, and {len(settings.class_names)} class_names are given")
    words = settings.class_names or tuple(map(in_words, raw_names))
    kept = np.flatnonzero(counts >= max(min_examples, 1))
    if len(kept) < 2:
        raise ValueError(
            f"{name}: {len(kept)} of {len(counts)} classes have at least {max(min_examples, 1)} examples (the largest "
            f"has {counts.max()}); lower evaluate.min_examples"
        )
    numbers = {raw_names[label]: number for number, label in enumerate(kept)}
    if len(numbers) < len(kept):
        several = [raw_names[label] for label in kept]
        twice = next(each for each in several if several.count(each) > 1)
        raise ValueError(
            f"{name}: two of its classes are called {twice!r}; give each its own name in the samples' class"
        )
    notes: list[str] = []
    if len(kept) < len(counts):
        notes.append(f"{len(counts) - len(kept)} of {len(counts)} classes have too few examples and are left out")
    parts = {part: _renumber(found, numbers, part, notes) for part, found in opened.items()}
    shifts = {}
    for other in settings.shifts if with_shifts else ():
        target = find_settings(other, custom_datasets or {})
        found = _open(other, target.query or target.support, data_dir)
        shifts[other] = _renumber(found, numbers, other, [])
        if not len(shifts[other]):
            raise ValueError(f"{other} has no class of {name}; it is no shift of it")
    return Dataset(
        name=short_name(name, custom_datasets or {}),
        settings=settings,
        class_names=tuple(words[label] for label in kept),
        support=parts.get("support"),
        query=parts.get("query"),
        shifts=shifts,
        notes=tuple(notes),
    )


def find_settings(name: str, own: Mapping[str, DatasetSettings]) -> DatasetSettings:
    """Returns where a set lies; for a name that is no known one, what its folder holds."""
    for known in (own, CATALOGUE):
        if name in known:
            return known[name]
    folder, support, query = (*name.rsplit(":", 2), "", "")[:3] if name.count(":") >= 2 else (name, "", "")
    splits = _splits(os.path.expanduser(folder))
    if support and splits:
        for split in (support, query):
            if split not in splits:
                raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
        return DatasetSettings(support=splits[support], query=splits[query])
    train, test = (next(filter(splits.__contains__, names), None) for names in (_SUPPORT_SPLITS, _QUERY_SPLITS))
    if train and test:
        return DatasetSettings(support=splits[train], query=splits[test])
    if splits:
        raise ValueError(
            f"{folder} holds the splits {', '.join(splits)}; name one to draw examples from and one to ask about, "
            f"such as {folder}:{next(iter(splits))}:{list(splits)[-1]}"
        )
    return DatasetSettings(support=name)


def short_name(name: str, own: Mapping[str, DatasetSettings]) -> str:
    """Returns how a set is called in results: of a path the last part."""
    if name in own or name in CATALOGUE or os.sep not in name:
        return name
    return os.path.basename(name.rstrip("/"))


@dataclasses.dataclass(frozen=True)
class _Opened:
    images: LabelledImages
    raw_names: Sequence[str]


def _open(name: str, source_name: str, data_dir: str | os.PathLike) -> _Opened:
    try:
        source = open_source(source_name.replace("{data_dir}", os.fspath(data_dir)), data_dir)
    except FileNotFoundError as error:
        if source_name == name:
            raise FileNotFoundError(f"{error}, digits, {', '.join(CATALOGUE)}") from error
        raise FileNotFoundError(f"{name}: {error}") from error
    labels = read_labels(name, source, data_dir)
    return _Opened(open_images(source, labels), labels.class_names)


def _renumber(found: _Opened, numbers: Mapping[str, int], part: str, notes: list[str]) -> LabelledImages:
    """Returns the images of known classes, numbered as these are."""
    mapped = np.array([numbers.get(name, -1) for name in found.raw_names], np.int64)[found.images.labels]
    rows = np.flatnonzero(mapped >= 0)
    unknown = {found.raw_names[label] for label in np.unique(found.images.labels)} - set(numbers)
    if unknown and part == "query":
        notes.append(f"{len(unknown)} classes of the queries, such as {min(unknown)!r}, have no examples: left out")
    return found.images.take(rows, mapped[rows])


def _splits(folder: str) -> dict[str, str]:
    """Returns the source of each split that a folder holds as shards, or in folders of shards or of class folders."""
    if not os.path.isdir(folder):
        return {}
    names = sorted(os.listdir(folder))
    matches = [match for match in map(_SPLIT_FILE.fullmatch, names) if match]
    if matches:
        return {match["split"]: os.path.join(folder, f"{match['split']}-*.tar") for match in matches}
    known = [name for name in names if name in (*_SUPPORT_SPLITS, *_QUERY_SPLITS)]
    inner = {name: _split_source(os.path.join(folder, name)) for name in known}
    found = {name: source for name, source in inner.items() if source is not None}
    return found if len(found) > 1 else {}


def _split_source(path: str) -> str | None:
    """Returns the source in the folder of a split: its class folders, or its shards."""
    if not os.path.isdir(path):
        return None
    entries = list(os.scandir(path))
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
        return path
    return os.path.join(path, "*.tar") if any(entry.name.endswith(".tar") for entry in entries) else None


def _digits() -> Dataset:
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

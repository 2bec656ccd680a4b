"""Open labelled datasets by name: from the catalogue, from a config, or from a folder or shards."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from data.embedded.sets import embedded_template, is_embedded
from data.fewshot import clip_benchmark
from data.fewshot.catalog import CATALOGUE
from data.fewshot.class_matching import match_names
from data.fewshot.class_words import choose_words, find_class_words
from data.fewshot.labelled import DEFAULT_TEMPLATE, DatasetSettings, LabelledImages, open_images, read_labels
from data.io.fingerprint import fingerprint
from data.sources.folders.listing import as_source, files, listed
from data.sources.folders.split_names import shard_splits, split_roles
from data.sources.open import is_folder, open_source
from data.sources.split_folders import find_layout, find_splits, own_shards
from foundation.suggestions import did_you_mean

logger = logging.getLogger(__name__)

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
    def template(self) -> str:
        """The single prompt template."""
        if self.settings.template:
            return self.settings.template
        source = self.settings.support or self.settings.query or ""
        return embedded_template(source) if is_embedded(source) else DEFAULT_TEMPLATE

    @property
    def templates(self) -> tuple[str, ...]:
        """The ensemble of prompt templates."""
        return self.settings.templates or (self.template,)

    @property
    def lacks_template(self) -> bool:
        """Whether nothing says how to describe a class, so that the images are taken for photos."""
        return not self.settings.template and self.templates == (DEFAULT_TEMPLATE,)

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
    known: Sequence[str]  # names of all classes of the first source, as in its samples
    new_labels: Mapping[str, int]  # those of them that are used → label in the opened dataset
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

    A folder may hold the splits of a dataset: `train-00000.tar` … and `test-00000.tar` …, or folders such as `train/`
    and `test/` of shards or class folders (`data.sources.split_folders.split_roles`). `FOLDER:SUPPORT:QUERY` names two
    of its splits. Support and query images are both drawn from any other source (see `data.sources.open`) whose samples
    have `label`, `class` or both. Classes with fewer than `min_examples` images are left out. `with_shifts=False` does
    not open the images of other domains.

    Raises `FileNotFoundError` or `ValueError` if the dataset does not exist or is unsuitable.
    """
    if name == "digits":
        return _open_digits()
    custom = custom_datasets or {}
    settings = find_settings(name, custom)
    if name not in custom and name in CATALOGUE and os.path.isdir(name):
        logger.info(f"{name} is the dataset of docs/reference/datasets.md. Write ./{name} for the folder of that name.")
    if name not in custom and name not in CATALOGUE and settings.support != name:
        queries = f", query images from {settings.query}" if settings.query else ""
        logger.info(f"{name}: support images from {settings.support}{queries}")
    sources = {
        part: _open_labelled_source(name, getattr(settings, part), data_dir=data_dir)
        for part in ("support", "query")
        if getattr(settings, part) is not None
    }
    classes = _select_classes(name, settings, first=next(iter(sources.values())), min_examples=min_examples)
    notes = list(classes.notes)
    parts = {}
    for part, source in sources.items():
        parts[part], matched = _relabel(name, source, classes)
        notes += matched
    if "query" in sources:
        notes += _note_unknown_classes(name, sources["query"], parts["query"], classes)
    shifts = {}
    for other in settings.shifts if with_shifts else ():
        target = find_settings(other, custom)
        source = _open_labelled_source(other, target.query or target.support, data_dir=data_dir)
        shifts[other], matched = _relabel(other, source, classes)
        notes += matched
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
    path = os.path.expanduser(name)
    folder, support, query = (path, "", "") if is_folder(path) else (*path.rsplit(":", 2), "", "")[:3]
    if not is_folder(folder):
        return DatasetSettings(support=name)
    splits, roles = _find_shards(folder), {}
    if support and not {support, query} <= splits.keys():
        splits = find_splits(folder, (support, query)) or splits
    elif not splits:
        layout = find_layout(folder)
        folder, splits, roles = layout.root, layout.splits, layout.roles
        if splits and layout.note:
            logger.info(layout.note)
        if not splits:
            shards = own_shards(folder)
            if shards is not None:
                return DatasetSettings(support=shards.path)
            return DatasetSettings(support=name if folder == path.rstrip("/") else as_source(folder))
    if support:
        for split in (support, query):
            if split not in splits:
                raise ValueError(
                    f"{folder} has no split {split!r}.{did_you_mean(split, splits)} It has: {', '.join(splits)}."
                )
        return DatasetSettings(support=splits[support], query=splits[query])
    return _choose_splits(folder, splits, roles or split_roles(splits))


def _choose_splits(folder: str, splits: Mapping[str, str | None], roles: Mapping[str, str]) -> DatasetSettings:
    """Return the training split as support, and the test split, or else the validation split, as query."""
    names = {role: [name for name in splits if roles.get(name) == role] for role in ("train", "test", "validation")}
    queries = names["test"] or names["validation"]
    if len(splits) == 1:
        return DatasetSettings(support=next(iter(splits.values())))
    if len(names["train"]) != 1 or len(queries) != 1:
        raise ValueError(
            f"{folder} has the splits {', '.join(splits)}, which are not a train and a test split. Name the support "
            f"and the query split, for example {folder}:{next(iter(splits))}:{list(splits)[-1]}."
        )
    for name in (names["train"][0], queries[0]):
        if splits[name] is None:
            other = next(each for each in (names["train"][0], queries[0], *splits) if each != name)
            raise ValueError(
                f"{folder}/{name} has images, but no class folders, so they have no labels. Sort them into one folder "
                f"per class, or give {folder}/{other} to draw support and query images from that split."
            )
    return DatasetSettings(support=splits[names["train"][0]], query=splits[queries[0]])


def short_name(name: str, custom_datasets: Mapping[str, DatasetSettings]) -> str:
    """Return the name of a dataset in results: the last part of a path, any other name unchanged."""
    if name in custom_datasets or name in CATALOGUE or os.sep not in name:
        return name
    return os.path.basename(name.rstrip("/").removesuffix("/*"))


def _open_labelled_source(name: str, source_name: str, *, data_dir: str | os.PathLike) -> _LabelledSource:
    path = source_name.replace("{data_dir}", os.fspath(data_dir))
    if source_name == name:
        source = open_source(path, data_dir, other_names=("digits", *CATALOGUE))
    else:
        _check_no_splits(path)
        try:
            source = open_source(path, data_dir)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name}: {error}") from error
    clip_benchmark.check_type(name, path)
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
        raise ValueError(f"{name}: {_too_few_classes(first, counts, least)}")
    new_labels = {names[label]: number for number, label in enumerate(kept)}
    if len(new_labels) < len(kept):
        kept_names = [names[label] for label in kept]
        repeated = next(each for each in kept_names if kept_names.count(each) > 1)
        raise ValueError(f"{name}: two classes are named {repeated!r}. Give each its own name in the samples' `class`.")
    left_out = len(counts) - len(kept)
    notes = (f"{left_out} of {len(counts)} classes have too few images and are left out",) if left_out else ()
    return _SelectedClasses(names, new_labels, tuple(words[label] for label in kept), notes)


def _too_few_classes(source: _LabelledSource, counts: np.ndarray, least: int) -> str:
    present = np.flatnonzero(counts)
    if len(present) < 2:
        only = (
            f"only one class has images ({source.class_names[present[0]]!r})" if len(present) else "no class has images"
        )
        return f"{only}, and two are needed. Add images of further classes, or give the folder above the class folders."
    return (
        f"{np.count_nonzero(counts >= least)} of {len(counts)} classes have at least {least} images (the largest has "
        f"{counts.max()}), and two are needed. Lower evaluate.min_examples."
    )


def _relabel(name: str, source: _LabelledSource, classes: _SelectedClasses) -> tuple[LabelledImages, Sequence[str]]:
    """Return the images of known classes with their new labels, and notes on names that differ."""
    matched = match_names(name, classes.known, _present(source))
    new_labels = {other: classes.new_labels.get(each, -1) for other, each in matched.names.items()}
    labels = np.array([new_labels.get(each, -1) for each in source.class_names], np.int64)[source.images.labels]
    rows = np.flatnonzero(labels >= 0)
    return source.images.take(rows, labels[rows]), matched.notes


def _note_unknown_classes(
    name: str, source: _LabelledSource, images: LabelledImages, classes: _SelectedClasses
) -> list[str]:
    """Return a note on the classes of the query images that are left out. Raises `ValueError` if all are."""
    kept = set(source.images.labels[images.rows])
    unknown = sorted(_present(source) - {source.class_names[label] for label in kept})
    if not len(images):
        raise ValueError(
            f"{name}: no class of the query images ({listed(unknown)}) is a class of the support images "
            f"({listed(classes.new_labels)}). Name the classes alike in both."
        )
    if not unknown:
        return []
    return [f"{len(unknown)} query classes, such as {unknown[0]!r}, have no support images and are left out"]


def _present(source: _LabelledSource) -> set[str]:
    return {source.class_names[label] for label in np.unique(source.images.labels)}


def _check_no_splits(path: str) -> None:
    splits = find_layout(os.path.expanduser(path)).splits if is_folder(path) else {}
    if len(splits) > 1:
        raise ValueError(f"{path} has the splits {', '.join(splits)}. Name the folder of one of them.")


def _find_shards(folder: str) -> dict[str, str]:
    """Return the splits in a folder of shards `SPLIT-00000.tar`, and the pattern of each, if that has two splits."""
    splits = shard_splits(files(folder))
    return {split: f"{folder.rstrip('/')}/{pattern}" for split, pattern in splits.items()} if len(splits) > 1 else {}


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

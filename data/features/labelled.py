"""Data sets of stored features: support and query rows with class numbers, class names, and text features."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.features.class_numbers import number_classes
from data.features.dataset_checks import check_encoders, warn_identical, warn_labels, warn_texts
from data.features.feature_files import (
    CLASSES,
    LAYOUTS,
    TEXTS,
    FeatureFiles,
    find_values,
    open_feature_files,
)
from data.features.id_labels import labels_from_ids
from data.features.open import Features, open_features
from data.features.rows import FeatureRows, read_rows
from data.io.fingerprint import fingerprint
from foundation.suggestions import nearest_path

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureDataset:
    """A data set of stored features of one encoder.

    Without `query`, the rows of `support` are both drawn from and classified. A data set without `support` has only
    queries. `texts` are class text features `[classes, dim]` in the order of `class_names`, or None. `dtype` is that of
    the files and `encoder` what `embed` recorded of the encoder, or empty. `notes` are sentences about rows and classes
    that were left out.
    """

    name: str
    path: str
    class_names: tuple[str, ...]
    support: FeatureRows | None
    query: FeatureRows | None
    texts: np.ndarray | None
    dtype: str
    encoder: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> FeatureRows:
        """The rows of the support or, without it, of the query."""
        return self.query if self.support is None else self.support

    @property
    def image_fingerprint(self) -> str:
        """A hash of the features of support and query."""
        return fingerprint(*(b"" if part is None else part.features for part in (self.support, self.query)))

    @property
    def fingerprint(self) -> str:
        """A hash of all features."""
        return fingerprint(self.image_fingerprint, b"" if self.texts is None else self.texts)


def open_labelled_features(
    path: str | os.PathLike,
    *,
    name: str,
    parts: Sequence[str] = (),
    query: str | os.PathLike | None = None,
    labelled_query: bool = True,
    with_texts: bool = True,
    min_examples: int = 0,
) -> FeatureDataset:
    """Open a data set of stored features: a folder or an `.npz` (`data.features.feature_files`).

    name: the name in messages and results.
    parts: the names of the support and the query features (default: the first of `LAYOUTS` that exists).
    query: another file or folder with the query features; it has no labels.
    labelled_query: whether the query rows have labels.
    with_texts: whether text features are read.
    min_examples: classes with fewer support rows are left out.

    What was read is logged: dtype and lengths of the rows, the source of labels, and support and query in one file.
    A warning is logged for query rows that are identical to support rows, for labels that may count from 1, and for
    texts that do not classify clearly better than chance. Raises `FileNotFoundError` or `ValueError`, with one
    sentence, for files that are missing or damaged and for parts that do not fit together.
    """
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise FileNotFoundError(f"there are no features at {path}.{nearest_path(path)}")
    files = open_feature_files(path)
    names = _choose_parts(files, parts, query=query)
    opened = {part: files.features(own, kind="images") for part, own in names.items()}
    if query is not None:
        opened["query"] = open_features([query], kind="images")
    rows = {part: read_rows(f"{name} {part}", features) for part, features in opened.items()}
    labels, rows = _read_labels(files, name, names, opened, rows, labelled_query=labelled_query and query is None)
    opened_texts = _open_texts(files) if with_texts else None
    texts = None if opened_texts is None else read_rows(f"{name} texts", opened_texts)
    check_encoders(name, opened, rows, opened_texts, texts)
    listed = find_values(files, CLASSES, what="lists of class names")
    listed = None if listed is None else [str(each) for each in listed]
    listed, texts = _order_texts(name, listed, opened_texts, texts)
    numbered = number_classes(name, labels, listed=listed, num_texts=None if texts is None else len(texts))
    rows = {part: dataclasses.replace(own, labels=numbered.labels.get(part, own.labels)) for part, own in rows.items()}
    support, found_query = rows.get("support"), rows.get("query")
    if support is not None and found_query is not None and np.array_equal(support.features, found_query.features):
        found_query = _one_pool(name, support, found_query)
    kept, notes = _keep_classes(
        name, found_query if support is None else support, numbered.class_names, min_examples=min_examples
    )
    support, found_query, more = _take_classes(name, support, found_query, numbered.class_names, kept)
    texts = None if texts is None else texts.features[kept]
    dataset = FeatureDataset(
        name=name,
        path=os.fspath(path),
        class_names=tuple(numbered.class_names[label] for label in kept),
        support=support,
        query=found_query,
        texts=texts,
        dtype=" and ".join(dict.fromkeys(f"{features.parts[0].dtype}" for features in opened.values())),
        encoder=next(iter(opened.values())).encoder,
        notes=(*notes, *more),
    )
    warn_identical(name, support, found_query)
    if texts is not None and len(dataset.known.labels):
        warn_texts(name, dataset.known, texts)
    return dataset


def _choose_parts(files: FeatureFiles, given: Sequence[str], *, query: str | os.PathLike | None) -> dict[str, str]:
    """Return the names of the support and query features, of those that exist."""
    known = files.names()
    if given:
        given = given if query is None else given[:1]
        for part in given:
            if part not in known:
                raise ValueError(f"{files.path} has no features {part!r}. It has: {', '.join(known) or 'none'}.")
        support, *rest = given
        return {"support": support} | ({"query": rest[0]} if rest and rest[0] != support else {})
    if not known:
        raise ValueError(f"{files.path} has no features. Add support.npy and query.npy (docs/guides/evaluation.md).")
    layouts = [layout for layout in LAYOUTS if set(layout) & set(known)]
    if len(layouts) != 1:
        found = f"It has: {', '.join(known) or 'none'}."
        problem = "features of several kinds" if layouts else "no features called support or train, query or test"
        raise ValueError(f"{files.path} has {problem}. {found} Name two of them as {files.path}:SUPPORT:QUERY.")
    names = {part: own for part, own in zip(("support", "query"), layouts[0], strict=True) if own in known}
    if query is not None:
        names.pop("query", None)
        return names
    others = sorted(set(known) - set(layouts[0]) - set(TEXTS))
    if len(names) < 2 and others:
        lacking = (layouts[0][1] or "query") if "support" in names else layouts[0][0]
        raise ValueError(
            f"{files.path} has no {lacking} features, but it has {', '.join([*names.values(), *others])}. Name support "
            f"and query, for example {files.path}:{names.get('support', others[0])}:{names.get('query', others[0])}."
        )
    return names


def _read_labels(
    files: FeatureFiles,
    name: str,
    names: Mapping[str, str],
    opened: Mapping[str, Features],
    rows: Mapping[str, FeatureRows],
    *,
    labelled_query: bool,
) -> tuple[dict[str, np.ndarray], dict[str, FeatureRows]]:
    """Return the stored labels of each part, and the parts: ids may name two splits in one file."""
    labels: dict[str, np.ndarray] = {}
    parts = dict(rows)
    for part, own in names.items():
        if part == "query" and not labelled_query:
            continue
        possible = [*files.label_names(own), *(["labels"] if len(names) == 1 else [])]
        found = find_values(files, possible, what=f"labels of {own}")
        if found is None:
            by_ids = labels_from_ids(f"{files.path}: {own}", opened[part].ids)
            labels[part] = by_ids.labels
            if by_ids.query_rows is not None and part == "support":
                whole = parts["support"]
                used = np.setdiff1d(np.flatnonzero(by_ids.labels != ""), by_ids.query_rows)
                labels["support"], parts["support"] = by_ids.labels[used], whole.take(used, whole.labels)
                if "query" not in parts:
                    parts["query"] = whole.take(by_ids.query_rows, whole.labels)
                    if labelled_query:
                        labels["query"] = by_ids.labels[by_ids.query_rows]
        else:
            if len(found) != len(parts[part]):
                raise ValueError(
                    f"{name}: {own} has {len(parts[part]):,} rows, but {len(found):,} labels. Write both again."
                )
            labels[part] = found
            warn_labels(f"{name}: {own}", found, opened[part].ids)
    if labelled_query and "query" not in parts:
        logger.info(f"{files.path} has no other query features: {_pooled(names['support'])}")
    return labels, parts


def _pooled(rows: str) -> str:
    return f"support rows are drawn from {rows}, and the remaining rows are queries"


def _open_texts(files: FeatureFiles) -> Features | None:
    found = [name for name in TEXTS if name in files.names()]
    if len(found) > 1:
        raise ValueError(f"{files.path} has both {' and '.join(found)}. Remove one of them.")
    return files.features(found[0], kind="texts") if found else None


def _order_texts(
    name: str, listed: list[str] | None, opened: Features | None, texts: FeatureRows | None
) -> tuple[list[str] | None, FeatureRows | None]:
    """Return class names and texts in one order: that of the names, if the texts have names of classes as ids."""
    if texts is None or opened.ids is None or list(texts.ids) == [str(row) for row in range(len(texts))]:
        return listed, texts
    ids = list(texts.ids)
    if listed is None:
        return ids, texts
    if sorted(ids) != sorted(listed) or len(set(ids)) < len(ids):
        odd = next((each for each in ids if each not in listed), ids[0])
        raise ValueError(
            f"{name}: the ids of the texts, such as {odd!r}, are not the class names, each once. Give the texts the "
            "names of the classes as ids, or none."
        )
    if ids != listed:
        logger.info(f"{name}: texts are put in the order of the class names, by their ids")
    order = np.array([ids.index(each) for each in listed])
    return listed, texts.take(order, texts.labels)


def _one_pool(name: str, support: FeatureRows, query: FeatureRows) -> None:
    """Log that support and query have the same rows; raise `ValueError` if their labels differ."""
    if len(query.labels) and not np.array_equal(support.labels, query.labels):
        raise ValueError(f"{name}: support and query have the same features, but other labels. Correct the labels.")
    if len(query.labels):
        logger.warning(f"{name}: support and query have the same rows: {_pooled('them')}")
    else:
        raise ValueError(f"{name}: support and query have the same features. Name other features to classify.")


def _keep_classes(
    name: str, first: FeatureRows, class_names: Sequence[str], *, min_examples: int
) -> tuple[np.ndarray, list[str]]:
    """Return the numbers of the classes with enough rows, and a note about those with too few."""
    counts, least = np.bincount(first.labels, minlength=len(class_names)), max(min_examples, 1)
    kept = np.flatnonzero(counts >= least)
    if len(kept) < 2:
        raise ValueError(
            f"{name}: {len(kept)} of {len(counts)} classes have at least {least} rows, and two are needed. Check the "
            "labels, or lower evaluate.min_examples."
        )
    left_out = len(counts) - len(kept)
    lacking = next((class_names[label] for label in range(len(counts)) if counts[label] < least), "")
    notes = [f"{name}: {left_out} of {len(counts)} classes, such as {lacking!r}, have too few rows and are left out"]
    return kept, notes if left_out else []


def _take_classes(
    name: str, support: FeatureRows | None, query: FeatureRows | None, class_names: Sequence[str], kept: np.ndarray
) -> tuple[FeatureRows | None, FeatureRows | None, list[str]]:
    """Return the rows of the classes that are kept, numbered from 0, and a note about query rows without support."""
    if len(kept) == len(class_names):
        return support, query, []
    new = np.full(len(class_names), -1)
    new[kept] = np.arange(len(kept))
    notes, taken = [], []
    for part in (support, query):
        if part is None or not len(part.labels):
            taken.append(part)
            continue
        rows = np.flatnonzero(new[part.labels] >= 0)
        if part is query and support is not None and len(rows) < len(part):
            if not len(rows):
                raise ValueError(f"{name}: no query row has a class of the support rows. Check the labels of both.")
            notes.append(
                f"{name}: {len(part) - len(rows):,} of {len(part):,} query rows have no support rows of their class "
                "and are left out"
            )
        taken.append(part.take(rows, new[part.labels[rows]]))
    return taken[0], taken[1], notes

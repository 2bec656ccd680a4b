"""From labels as they are stored, numbers or names, to class numbers from 0 and the names of the classes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data.fewshot.class_matching import match_names
from foundation.suggestions import did_you_mean

logger = logging.getLogger(__name__)


class ClassNumbers(NamedTuple):
    """The names of all classes, and the labels of each part `[rows]` as places in them."""

    class_names: tuple[str, ...]
    labels: Mapping[str, np.ndarray]


def number_classes(
    dataset: str, labels: Mapping[str, np.ndarray], *, listed: Sequence[str] | None, num_texts: int | None
) -> ClassNumbers:
    """Return the class numbers of the labels of each part, integers or strings `[rows]`.

    listed: the names of the classes in the order of their numbers, or None.
    num_texts: the number of classes that have a text, in the same order, or None without texts.

    Without `listed`, names are numbered in their order, and so are integers, which may have gaps; with texts, integers
    are the rows of the texts. `dataset` and the names of the parts are those in messages. Raises `ValueError` for
    labels that cannot be numbers of these classes: out of range, counted from 1, or names that are not listed.
    """
    if listed is not None and num_texts not in (None, len(listed)):
        raise ValueError(f"{dataset} has {num_texts} rows of texts, but {len(listed)} class names. Give one per class.")
    kinds = {part: "numbers" if values.dtype.kind == "i" else "names" for part, values in labels.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"{dataset}: the labels of {' and those of '.join(f'{part} are {kind}' for part, kind in kinds.items())}. "
            "Store both as numbers or both as names."
        )
    if "numbers" in kinds.values() and not _are_numeric_names(dataset, labels, listed):
        return _number_integers(dataset, labels, listed, num_texts)
    return _number_names(dataset, {part: values.astype(str) for part, values in labels.items()}, listed, num_texts)


def _are_numeric_names(dataset: str, labels: Mapping[str, np.ndarray], listed: Sequence[str] | None) -> bool:
    """Return whether integer labels are names, as the listed classes are called by numbers."""
    if listed is None or list(listed) == [str(number) for number in range(len(listed))]:
        return False
    values = {int(value) for part in labels.values() for value in np.unique(part)}
    if not {str(value) for value in values} <= set(listed):
        return False
    if min(values) >= 0 and max(values) < len(listed):
        raise ValueError(
            f"{dataset}: the labels can be numbers of the classes or their names, as the classes are called "
            f"{listed[0]}, {listed[1]}, … . Give the classes names in words."
        )
    logger.info(f"{dataset}: the labels are taken as names of classes, which are numbers themselves")
    return True


def _number_integers(
    dataset: str, labels: Mapping[str, np.ndarray], listed: Sequence[str] | None, num_texts: int | None
) -> ClassNumbers:
    count = num_texts if listed is None else len(listed)
    spans = {part: (int(values.min()), int(values.max())) for part, values in labels.items()}
    for part, (lowest, highest) in spans.items():
        if lowest < 0:
            row = int(np.flatnonzero(labels[part] == lowest)[0])
            raise ValueError(f"{dataset}: label {lowest} of row {row} of {part} is negative. Leave such rows out.")
        if count is not None and highest >= count:
            known = f"{count} {'rows of texts' if listed is None else 'class names'}, numbered from 0"
            hint = " The labels seem to count from 1: subtract 1." if lowest == 1 and highest == count else ""
            raise ValueError(f"{dataset}: the labels of {part} go up to {highest}, but there are {known}.{hint}")
    lowest, highest = (sorted(ends) for ends in zip(*spans.values(), strict=True))
    if lowest == [0, 1] and highest[0] + 1 == highest[1] == spans[max(spans, key=lambda part: spans[part])][1]:
        raise ValueError(
            f"{dataset}: the labels of one part are 0 to {highest[0]}, of the other 1 to {highest[1]}. Number the "
            "classes of both from 0."
        )
    present = np.unique(np.concatenate(list(labels.values())))
    if count is None:
        names = tuple(f"class {value}" for value in present)
        return ClassNumbers(names, {part: np.searchsorted(present, values) for part, values in labels.items()})
    if present[0] > 0:
        first = f"class 0 ({listed[0]!r})" if listed is not None else "class 0"
        logger.warning(
            f"{dataset}: no row has the label of {first}, the lowest label is {present[0]}. Labels are taken to count "
            "from 0; if yours count from 1, subtract 1."
        )
    names = tuple(listed) if listed is not None else tuple(f"class {number}" for number in range(count))
    return ClassNumbers(names, dict(labels))


def _number_names(
    dataset: str, labels: Mapping[str, np.ndarray], listed: Sequence[str] | None, num_texts: int | None
) -> ClassNumbers:
    if listed is None and num_texts is not None:
        raise ValueError(
            f"{dataset}: the labels are names, so the class of each of the {num_texts} rows of texts is not known. "
            "Write the names of the classes in the order of the texts, one per line, into classes.txt."
        )
    names = {part: list(dict.fromkeys(values.tolist())) for part, values in labels.items()}
    first = next(iter(names.values()))
    known = sorted(first) if listed is None else list(listed)
    twice = next((name for name, count in Counter(known).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{dataset}: two classes are called {twice!r}, so labels must be numbers. Or rename one.")
    number_of: dict[str, dict[str, int]] = {}
    for part, own in names.items():
        matched = match_names(dataset, known, own)
        for note in matched.notes:
            logger.info(f"{dataset}: {note}")
        new = sorted(set(own) - set(matched.names))
        if new and listed is not None:
            raise ValueError(
                f"{dataset}: {len(new)} labels of {part} are not among the {len(known)} class names, such as "
                f"{new[0]!r}.{did_you_mean(new[0], known)}"
            )
        known += new
        places = {name: place for place, name in enumerate(known)}
        number_of[part] = {name: places[matched.names.get(name, name)] for name in own}
    numbered = {part: np.array([number_of[part][value] for value in labels[part].tolist()]) for part in labels}
    return ClassNumbers(tuple(known), numbered)

"""Find the words of a dataset's classes: from the names in the samples, a list in the settings, or a text file."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from typing import NamedTuple

from data.fewshot import clip_benchmark
from data.fewshot.labelled import Labels, in_words

_PADDED = re.compile("[0-9]+")


class ClassWords(NamedTuple):
    """The classes of a source by label: distinct `names`, and `words`, empty where there are none."""

    names: list[str]
    words: list[str]


def find_class_words(path: str, labels: Labels) -> ClassWords:
    """Return the classes of a source: as in its samples or, if they have no names, in a file next to its shards.

    Names such as `000` and `001` are numbers of that file's lines, if no two are the same number.

    Raises `ValueError` if the file has too few lines.
    """
    padded = [int(name) for name in labels.class_names if _PADDED.fullmatch(name)]
    are_numbers = any(name[0] == "0" for name in labels.class_names if name) and len({*padded}) == len(
        labels.class_names
    )
    listed = clip_benchmark.find_class_names(path) if are_numbers or not all(labels.class_names) else None
    if listed and are_numbers:
        labels = labels._replace(class_names=[""] * len(padded), values=padded)
    if listed and max(labels.values) >= len(listed.lines):
        raise ValueError(
            f"{listed.path} has {len(listed.lines)} lines, but the largest label is {max(labels.values)}. Write the "
            "class of label 0 into the first line, and so on."
        )
    words = [
        in_words(name) if name else listed.lines[value] if listed else ""
        for name, value in zip(labels.class_names, labels.values, strict=True)
    ]
    counts = collections.Counter(words)
    names = [
        name or (word if word and counts[word] == 1 else f"label {value}")
        for name, word, value in zip(labels.class_names, words, labels.values, strict=True)
    ]
    return ClassWords(names, words)


def choose_words(name: str, listed: Sequence[str], words: Sequence[str], values: Sequence[int]) -> Sequence[str]:
    """Return the words of the classes with labels `values`: those that the settings list or else `words`.

    A list has the class of every label from 0 on, or of every label in `values`. Raises `ValueError` if it has neither,
    or if a class has no words; `name` identifies the dataset in errors.
    """
    if len(listed) == values[-1] + 1:
        return [listed[value] for value in values]
    if listed and len(listed) != len(values):
        raise ValueError(f"{name} has {len(values)} classes, but class_names lists {len(listed)}. List one per class.")
    words = listed or words
    if not all(words):
        raise ValueError(
            f"{name}: label {values[list(words).index('')]} has no class name. Name the classes by `class` in the "
            f"samples, by class_names in custom_datasets, or by a file {clip_benchmark.CLASS_NAMES} next to the shards "
            "or in the folder above, with one name per line in the order of the labels."
        )
    return words

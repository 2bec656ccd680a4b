"""Match the classes of two parts of a dataset by name, also where case or blanks at the ends of names differ."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data.sources.folders.levels import name_key


class MatchedNames(NamedTuple):
    """The classes of another part that are classes of the first: name there → name in the first; and `notes`."""

    names: dict[str, str]
    notes: tuple[str, ...]


def match_names(dataset: str, known: Sequence[str], others: Iterable[str]) -> MatchedNames:
    """Match the class names `others` of a part to `known` ones: the same name, or else one that differs only in case,
    in blanks at its ends, or in composed characters.

    Raises `ValueError` if several names match one; `dataset` identifies the dataset in errors.
    """
    exact = set(known)
    by_key = collections.defaultdict(list)
    for name in known:
        by_key[name_key(name)].append(name)
    others = sorted(set(others))
    found = {name: name for name in others if name in exact}
    similar = {name: by_key[name_key(name)] for name in others if name not in exact and by_key.get(name_key(name))}
    for name, candidates in similar.items():
        twice = [other for other in others if other != name and name_key(other) == name_key(name)]
        if len(candidates) > 1 or twice:
            raise ValueError(
                f"{dataset}: class {name!r} of one part can be {' or '.join(map(repr, candidates))} of another"
                f"{f', as can {twice[0]!r}' if twice else ''}. Name the classes alike in all parts."
            )
        found[name] = candidates[0]
    notes = ()
    if similar:
        name, (other, *_) = next(iter(similar.items()))
        notes = (
            f"{len(similar)} classes are matched in spite of another case or blanks, such as {name!r} to {other!r}",
        )
    return MatchedNames(found, notes)

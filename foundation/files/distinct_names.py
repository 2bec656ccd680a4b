"""File names made from names that may contain any character."""

from __future__ import annotations

import collections
import hashlib
import itertools
import re
from collections.abc import Sequence

_OTHER = re.compile(r"[^\w.]+")


def distinct_names(names: Sequence[str], *, other: re.Pattern[str] = _OTHER, longest: int = 100) -> list[str]:
    """Return a readable file name for each name, such that no two are equal, also without case.

    Characters that match `other` become `_`. Different names that are then equal end with a hash of their own name,
    which does not depend on the other names. Repetitions of a name are numbered, from 2.
    """
    readable = [other.sub("_", name)[:longest] for name in names]
    distinct = {name: short.casefold() for name, short in zip(names, readable, strict=True)}
    counts = collections.Counter(distinct.values())
    taken: set[str] = set()
    found = []
    for name, short in zip(names, readable, strict=True):
        first = short if counts[short.casefold()] == 1 else f"{short}-{_hash(name)}"
        numbered = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
        found.append(next(each for each in numbered if each.casefold() not in taken))
        taken.add(found[-1].casefold())
    return found


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]

"""File names made from names that may contain any character."""

from __future__ import annotations

import collections
import hashlib
import re
from collections.abc import Sequence

_OTHER = re.compile(r"[^\w.]+")


def distinct_names(names: Sequence[str], *, other: re.Pattern[str] = _OTHER, longest: int = 100) -> list[str]:
    """Return a readable file name for each of several distinct names, such that no two are equal, also without case.

    Characters that match `other` become `_`. Names that are then equal end with a hash of their own name, which does
    not depend on the other names.
    """
    readable = [other.sub("_", name)[:longest] for name in names]
    counts = collections.Counter(name.casefold() for name in readable)
    return [
        short if counts[short.casefold()] == 1 else f"{short}-{_hash(name)}"
        for name, short in zip(names, readable, strict=True)
    ]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]

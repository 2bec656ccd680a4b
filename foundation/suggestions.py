"""Error messages for unknown names: the nearest known name and the list of all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: object, known: Iterable[object]) -> str:
    """Return an error message for a `name` that is not among the `known` ones.

    For example "unknown method 'tip-adapter'. Did you mean 'tip_adapter'? Known: zero_shot, tip_adapter".
    """
    names = [str(each) for each in known]
    return f"unknown {kind} {name!r}.{did_you_mean(name, names)} Known: {', '.join(names) or 'none'}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or an empty string if none is near."""
    if not isinstance(name, str):
        return ""
    known = list(known)
    nearest = [each for each in known if each.lower() == name.lower()] or difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""

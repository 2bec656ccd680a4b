"""Error messages for unknown names: the nearest known name and the list of all."""

from __future__ import annotations

import difflib
import os
import pathlib
from collections.abc import Iterable, Sequence


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
    nearest = _nearest(name, list(known))
    return f" Did you mean {nearest!r}?" if nearest is not None else ""


def _nearest(name: str, known: Sequence[str]) -> str | None:
    nearest = [each for each in known if each.lower() == name.lower()] or difflib.get_close_matches(name, known, n=1)
    return nearest[0] if nearest else None


def nearest_path(path: str | os.PathLike) -> str:
    """Return " Did you mean 'x'?" for the existing path nearest to one that does not exist, or an empty string.

    The first component that does not exist is compared with its neighbours, whose names may be in another case.
    """
    path = pathlib.Path(path).expanduser()
    missing = next((each for each in reversed([path, *path.parents]) if not each.exists()), None)
    if missing is None or not missing.parent.is_dir():
        return ""
    try:
        names = sorted(os.listdir(missing.parent))
    except OSError:
        return ""
    found = _nearest(missing.name, names)
    if found is None:
        return ""
    full = missing.parent / found / path.relative_to(missing)
    return f" Did you mean {str(full if full.exists() else missing.parent / found)!r}?"

"""Values on the command line: lists, numbers, tuples and paths, as a setting of a known type reads them."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

_COMMA = re.compile(r",(?![^{}]*\})")  # not those of a pattern such as {train,extra}-*.tar


def parse_value(text: str, *, like: Any, fits: Callable[[Any], bool] | None = None) -> Any:
    """Return the value that `text` spells for a setting whose current value is `like`.

    Where `text` can be read in several ways, as 2024 for a number or a folder, the first that `fits` the setting is
    taken; if none does, the first, so that the check of the setting names it.
    """
    if text == "None" and fits is not None and fits(None):
        return None
    readings = list(_readings(text, like))
    return next((value for value in readings if fits is not None and fits(value)), readings[0])


def split_list(text: str) -> list[str]:
    """Split text at commas, drop blanks around the items, and drop empty items.

    Commas in braces and in existing paths do not split, nor do the blanks of existing paths count. An item may be
    `NAME=PATH`.
    """
    pieces, items = _COMMA.split(text), []
    while pieces:
        for count in range(len(pieces), 0, -1):
            item = ",".join(pieces[:count])
            if _is_path(item):
                break
            item = item.strip()
            if _is_path(item):
                break
        items.append(item)
        pieces = pieces[count:]
    return [item for item in items if item]


def _is_path(item: str) -> bool:
    """Return whether PATH or NAME=PATH names something that exists."""
    name, _, path = item.partition("=")
    return _exists(item) or ("," not in name and _exists(path))


def _exists(path: str) -> bool:
    return bool(path) and "\0" not in path and os.path.exists(os.path.expanduser(path))


def _readings(text: str, like: Any) -> Iterator[Any]:
    """Yield what text may mean, the likeliest reading first."""
    if isinstance(like, str):
        yield text
        return
    stripped = text.strip()
    if isinstance(like, bool):
        yield {"true": True, "false": False}.get(stripped.lower(), text)
        return
    is_tuple = isinstance(like, tuple)
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes such as \\( in a pattern
            literal = ast.literal_eval(stripped)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    else:
        if is_tuple and not isinstance(literal, tuple):
            literal = tuple(literal) if isinstance(literal, list) else (literal,)
        yield literal
    if isinstance(like, float):
        with suppress(ValueError):
            yield float(stripped)  # inf
    if is_tuple:
        if stripped[:1] + stripped[-1:] in ("()", "[]") and not _exists(stripped):
            yield tuple(split_list(stripped[1:-1]))
        yield tuple(split_list(text))
    yield text

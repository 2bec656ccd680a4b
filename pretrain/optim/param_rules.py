"""Parameter rules: regular expressions for the paths of parameters; the first one found in a path applies."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax

Value = TypeVar("Value")


def path_name(path: tuple) -> str:
    """Return a path through a pytree as `a/b/c`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def path_names(tree: Any) -> list[str]:
    """Return the paths of the leaves of a tree."""
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def first_match(rules: Sequence[tuple[str, Value]], name: str, default: Value) -> Value:
    """Return the value of the first rule whose pattern is found in `name`, or the default."""
    return next((value for pattern, value in rules if re.search(pattern, name)), default)


def check_patterns(section: str, patterns: Iterable[str], tree: Any) -> None:
    """Raise `ValueError` for a pattern of the config's `section` that is not found in any path of `tree`."""
    names = path_names(tree)
    for pattern in patterns:
        try:
            found = any(re.search(pattern, name) for name in names)
        except re.error as error:
            raise ValueError(f"{section} rule {pattern!r} is not a regular expression: {error}") from error
        if not found:
            plain = re.sub(r"\W+", "/", pattern).strip("/")
            nearest = difflib.get_close_matches(plain, names, n=3, cutoff=0.0)
            raise ValueError(f"{section} rule {pattern!r} matches no parameter. Nearest: {', '.join(nearest)}")

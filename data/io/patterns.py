"""Brace patterns of paths and URLs, such as `shard-{00000..00099}.tar`, as in bash and webdataset."""

from __future__ import annotations

import itertools
import math
import re

import braceexpand

MAX_PATHS = 1_000_000
_INTEGER_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_LETTER_RANGE = re.compile(r"[A-Za-z]\.\.[A-Za-z](\.\.-?\d+)?")


def expand_braces(pattern: str) -> list[str]:
    """Return the paths that `{00000..00099}` and `{a,b}` stand for, in order.

    A pattern without braces, or with unbalanced ones, stands for itself. Raises `ValueError` for more than `MAX_PATHS`
    paths, before any of them takes memory.
    """
    if "{" not in pattern:
        return [pattern]
    count = _count_paths(pattern)
    if count > MAX_PATHS:
        raise ValueError(f"the pattern {pattern!r} stands for {count:,} paths. Use one of at most {MAX_PATHS:,}.")
    try:
        return list(itertools.islice(braceexpand.braceexpand(pattern, escape=False), MAX_PATHS))
    except braceexpand.UnbalancedBracesError:
        return [pattern]
    except RecursionError as error:
        raise ValueError(f"the braces of the pattern {pattern[:80]!r}… are nested too deeply. Simplify it.") from error


def _count_paths(pattern: str) -> int:
    """Return the number of expansions, or an upper bound. `braceexpand` holds all options of a brace in memory."""
    finished, current, starts = [0], [1], [0]  # for each open brace: earlier options, current option, first character
    for position, character in enumerate(pattern):
        if character == "{":
            finished.append(0)
            current.append(1)
            starts.append(position + 1)
        elif character == "," and len(starts) > 1:
            finished[-1] += current[-1]
            current[-1] = 1
        elif character == "}" and len(starts) > 1:
            options = finished.pop() + current.pop()
            current[-1] *= max(options, _count_range(pattern[starts.pop() : position]))
    return math.prod(map(sum, zip(finished, current, strict=True)))


def _count_range(text: str) -> int:
    """Return the number of values of a range such as `000..099`; 1 for any other text."""
    if _LETTER_RANGE.fullmatch(text):
        return 52
    bounds = _INTEGER_RANGE.fullmatch(text)
    if not bounds:
        return 1
    return abs(int(bounds[2]) - int(bounds[1])) // (int(bounds[3] or 1) or 1) + 1

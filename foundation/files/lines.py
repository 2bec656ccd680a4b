"""Lines of text files."""

from __future__ import annotations


def split_lines(text: str) -> list[str]:
    """Return the lines of a text, which end in a line feed, with or without carriage return, or all in the latter.

    Other separators, such as U+2028 and U+0085, are part of a line: `str.splitlines` would split at them.
    """
    if not text:
        return []
    ended = text if "\n" in text else text.replace("\r", "\n")
    return [line.removesuffix("\r") for line in ended.removesuffix("\n").split("\n")]

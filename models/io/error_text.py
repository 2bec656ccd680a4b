"""What other libraries raise, as part of a sentence."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message."""
    return str(error).strip().partition("\n")[0].rstrip(" .:") or type(error).__name__


def one_line(error: BaseException) -> str:
    """Returns an error's whole message on one line."""
    return " ".join(str(error).split()).rstrip(" .:") or type(error).__name__

"""Errors of other libraries as part of a sentence."""

from __future__ import annotations

import errno


def error_text(error: BaseException) -> str:
    """Return the first line of an error's message, for system errors the reason and the file name."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error).strip().partition("\n")[0] or type(error).__name__


def is_full(error: BaseException) -> bool:
    """Return whether a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, to stand in parentheses."""
    return str(error).strip().partition("\n")[0].rstrip(" .:") or type(error).__name__


def one_line(error: BaseException) -> str:
    """Return an error's whole message on one line without its full stop."""
    return " ".join(str(error).split()).rstrip(" .:") or type(error).__name__

"""Text for the console: every name and message can be printed on every terminal."""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_ASCII = {"—": "-", "–": "-", "−": "-", "×": "x", "±": "+-", "→": "->", "…": "...", "’": "'", "█": "#", "·": "*"}
_ERRORS = "console"


def configure_streams() -> None:
    """Let standard output and error write any text in any encoding: characters that it lacks are replaced."""
    codecs.register_error(_ERRORS, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def printable(text: object) -> str:
    """Return text with its control characters escaped, so that a name cannot move the cursor or hide a line.

    Line feeds and tabs are unchanged.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


@contextmanager
def hidden_stderr() -> Iterator[None]:
    """Discard what libraries of C++ write to standard error meanwhile, unless the job runs with `--verbose`."""
    try:
        original = None if logging.getLogger(__name__).isEnabledFor(logging.DEBUG) else os.dup(2)
    except OSError:  # standard error is closed
        original = None
    if original is None:
        yield
        return
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_ASCII.get(each) or ascii(each)[1:-1] for each in characters), error.end

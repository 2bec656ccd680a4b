"""Text for the console: every name and message can be printed on every terminal."""

from __future__ import annotations

import codecs
import io
import re
import sys

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


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_ASCII.get(each) or ascii(each)[1:-1] for each in characters), error.end

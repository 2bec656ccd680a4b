"""Names of files and folders, checked before any work is done."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable

from foundation.console import printable

_LONGEST = 255 - len(".partial-") - 11  # bytes of a name, so that temporary files next to it have room for theirs


def check_encoding(arguments: Iterable[str]) -> None:
    """Raise `ValueError` if an argument or the current folder is not valid UTF-8: results name them in JSON files."""
    for argument in arguments:
        if not is_utf8(argument):
            raise ValueError(f"{_readable(argument)} is not valid UTF-8. Rename the file or folder that it names.")
    if not is_utf8(os.getcwd()):
        raise ValueError(f"the current folder {_readable(os.getcwd())} is not valid UTF-8. Rename it.")


def is_utf8(text: str) -> bool:
    """Return whether a name is valid UTF-8; Python keeps other bytes as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def output_path(text: str) -> pathlib.Path:
    """Return the path of an output folder or file, with `~` expanded; raises `ValueError` for a name it cannot have."""
    if not text.strip():
        raise ValueError("the path is empty")
    path = pathlib.Path(text).expanduser()
    for name in path.parts:
        size = len(os.fsencode(name))
        if size > _LONGEST:
            raise ValueError(f"{printable(name)!r} has {size} bytes; a name may have {_LONGEST}. Use a shorter one.")
    return path


def _readable(text: str) -> str:
    return printable(text.encode("utf-8", "backslashreplace").decode())

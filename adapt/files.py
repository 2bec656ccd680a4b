"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to; what is there at the end, and on disk, replaces the file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as temporary:
        partial = pathlib.Path(temporary) / path.name
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file as it is, line ends included; replaces an earlier one once all is written."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")

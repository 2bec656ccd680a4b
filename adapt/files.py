"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import pathlib
import tempfile


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file as it is, line ends included; replaces an earlier one once all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        partial = pathlib.Path(temporary) / path.name
        partial.write_text(text, encoding="utf-8", newline="")
        os.replace(partial, path)

"""Class names and prompt templates that are stored as text files, one per line."""

from __future__ import annotations

import pathlib

from foundation.files.lines import split_lines


def read_class_names(name: str) -> tuple[str, ...]:
    """Return the class names in `class_names/NAME.txt`, in the order of their labels."""
    return _read_lines("class_names", name)


def read_templates(name: str) -> tuple[str, ...]:
    """Return the prompt templates in `templates/NAME.txt`."""
    return _read_lines("templates", name)


def _read_lines(folder: str, name: str) -> tuple[str, ...]:
    path = pathlib.Path(__file__).parent / folder / f"{name}.txt"
    return tuple(split_lines(path.read_text(encoding="utf-8")))

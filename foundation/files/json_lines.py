"""JSON-lines files that a killed process may leave with a cut last line."""

from __future__ import annotations

import json
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from foundation.files.atomic import write_text

logger = logging.getLogger(__name__)


class JsonLines(NamedTuple):
    """The objects in a JSON-lines file, and the numbers, from 1, of the lines that are damaged."""

    rows: list[dict[str, Any]]
    damaged: list[int]


def read_json_lines(path: str | os.PathLike, *, appended: bool = True) -> list[dict[str, Any]]:
    """Return the objects in a JSON-lines file; an absent file gives an empty list.

    A cut last line is left out, which is logged: a killed process leaves it in a file that is `appended` to. Raises
    `ValueError` for any other damaged line, and for a cut last line in a file that is not appended to.
    """
    rows, damaged = parse_json_lines(path)
    if damaged:
        content = pathlib.Path(path).read_bytes()
        if not appended or damaged != [content.count(b"\n") + 1]:
            raise ValueError(f"line {damaged[0]} of {path} is damaged. Restore the file from a copy, or remove it.")
        logger.warning(f"the last line of {path} is cut and left out")
    return rows


def parse_json_lines(path: str | os.PathLike) -> JsonLines:
    """Return the objects in a JSON-lines file that can be read; an absent file has none."""
    try:
        content = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        return JsonLines([], [])
    rows, damaged = [], []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            damaged.append(number)
            continue
        if number < len(lines):
            rows.append(row)
        else:  # a line without a line feed was not written completely
            damaged.append(number)
    return JsonLines(rows, damaged)


def write_json_lines(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON-lines file atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_json_line(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
    """Append one object and sync it; a cut last line of an earlier process is removed first."""
    append_json_lines(path, [row])


def append_json_lines(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append objects and sync them together; a cut last line of an earlier process is removed first."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        drop_cut_line(file)
        file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def drop_cut_line(file: Any) -> None:
    """Truncate an open binary file after its last line feed."""
    end = file.seek(0, os.SEEK_END)
    position = end
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            position = start + found + 1
            break
        position = start
    if position < end:
        file.truncate(position)
    file.seek(0, os.SEEK_END)

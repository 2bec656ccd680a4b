"""JSON-lines files that a killed process may leave with a cut last line."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from foundation.atomic import write_text


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the objects in a JSON-lines file, without a cut last line; an absent file gives an empty list.

    Raises `ValueError` for a damaged line that is not the last: that is not an interrupted write.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):  # after the last line feed: nothing, or a cut line
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is not JSON ({error}). Remove the line or the file.") from error
    return rows


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

"""The positions of the objects in a JSON file that is not one object per line: an array, or objects over lines."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.io.storage import File, read_range

_BLANKS = re.compile(r"[\s\x00]*")
_BETWEEN = re.compile(r"\s*,?\s*")
_SCAN = json.JSONDecoder().raw_decode


class JsonObjects(NamedTuple):
    """The byte offsets of the objects in a file and the end of the last, and their lines from 1, `[objects + 1]`.

    digest: SHA-256 of the file.
    """

    starts: np.ndarray
    lines: np.ndarray
    num_lines: int
    digest: bytes


def has_json_lines(sample: bytes, path: str) -> bool:
    """Return whether a file has one JSON value per line, as seen from its first bytes.

    A file `.jsonl` has, unless it begins with an array, or with an object that continues on the second line.
    """
    text = sample.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = [line for line in map(str.strip, re.split(r"[\r\n]+", text)) if line]
    if not lines or not path.lower().endswith(".jsonl"):
        return not lines
    first, second = (*lines, "{")[:2]
    continues = first[-1] in ",{[" and not second.startswith("{") and not _is_json(first)
    return not first.startswith("[") and not continues


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def find_objects(file: File) -> JsonObjects:
    """Return the positions of the objects in a file, which is read into memory once.

    Raises `ValueError` with the line if it is not JSON.
    """
    content = read_range(file, 0, file.size)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.path} is not UTF-8 ({error.reason} at byte {error.start:,}). Convert it.") from error
    offset = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    digest = hashlib.sha256(content).digest()
    del content
    position = _BLANKS.match(text).end()
    is_array = text[position : position + 1] == "["
    position += is_array
    starts: list[int] = []
    while True:
        position = _BETWEEN.match(text, position).end()
        if position >= len(text) or (is_array and text[position] == "]"):
            break
        starts.append(position)
        position = _end(text, position, file.path)
    if is_array and (position >= len(text) or _BLANKS.fullmatch(text, position + 1) is None):
        raise ValueError(_not_json(file.path, text, min(position, len(text) - 1), "the array does not end the file"))
    edges = np.array([*starts, position], np.int64)
    lines = _lines_before(text, edges) + 1
    return JsonObjects(_bytes_before(text, edges) + offset, lines, text.count("\n") + 1, digest)


def _end(text: str, position: int, path: str) -> int:
    try:
        return _SCAN(text, position)[1]
    except (ValueError, RecursionError) as error:
        raise ValueError(
            _not_json(path, text, getattr(error, "pos", position), getattr(error, "msg", error))
        ) from error


def _not_json(path: str, text: str, position: int, reason: object) -> str:
    return (
        f"{path} is not JSON from line {text.count(chr(10), 0, position) + 1} on ({reason}). Write an array of objects "
        "or, in a .jsonl file, one object per line."
    )


def _bytes_before(text: str, positions: np.ndarray) -> np.ndarray:
    return _count_before(text, positions, lambda part: len(part.encode("utf-8")))


def _lines_before(text: str, positions: np.ndarray) -> np.ndarray:
    return _count_before(text, positions, lambda part: part.count("\n"))


def _count_before(text: str, positions: np.ndarray, count: Callable[[str], int]) -> np.ndarray:
    edges = itertools.pairwise([0, *positions.tolist()])
    return np.cumsum([count(text[start:stop]) for start, stop in edges], dtype=np.int64)

"""Files with one text per line, plain or as JSON lines."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, NamedTuple

from foundation.files.lines import split_lines


class TextFile(NamedTuple):
    """The texts of a file and their ids."""

    ids: list[Any]
    texts: list[str]


def read_texts(path: str | os.PathLike) -> TextFile:
    """Read a file with one text per line, or JSON lines if its name ends in `.jsonl`.

    Lines end as in `split_lines`. A JSON line is a string, or an object with `text` and optionally `id`. The default id
    of a text is the number of its line, from 0. Raises `ValueError` for an empty file, and for an invalid line,
    with its number.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}. Convert the file.") from error
    lines = split_lines(content)
    if not lines:
        raise ValueError(f"{path} contains no texts. Write one text per line.")
    if path.suffix != ".jsonl":
        return TextFile(list(range(len(lines))), lines)
    ids, texts = [], []
    for number, line in enumerate(lines):
        fields = _parse(line, where=f"line {number + 1} of {path}")
        ids.append(fields.get("id", number))
        texts.append(fields["text"])
    return TextFile(ids, texts)


def _parse(line: str, *, where: str) -> dict[str, Any]:
    """Return the object of a JSON line, which has a `text`."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON") from error
    fields = value if isinstance(value, dict) else {"text": value}
    if not isinstance(fields.get("text"), str):
        raise ValueError(f'{where} is neither a string nor an object with a "text"')
    try:
        json.dumps([fields.get("id"), fields["text"]], ensure_ascii=False).encode()
    except UnicodeError as error:
        raise ValueError(f"{where} contains an unpaired surrogate, which is not valid text") from error
    return fields

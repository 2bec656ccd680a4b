"""Reading JSON files from untrusted sources."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from foundation.error_text import one_line

MAX_BYTES = 32 << 20  # the index of the largest published checkpoints has less than 1 MB


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises `FileNotFoundError` if there is no regular file and `ValueError` for any other content.
    """
    path = pathlib.Path(path)
    if not path.is_file():  # reading a pipe would never end
        raise FileNotFoundError(f"{path} does not exist or is not a regular file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; the limit is {MAX_BYTES:,}. Download or export it again.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({one_line(error)})") from error
    if not isinstance(fields, Mapping):
        raise ValueError(f"{path} does not contain a JSON object")
    return dict(fields)

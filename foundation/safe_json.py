"""JSON from files that come from elsewhere."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from foundation.error_text import one_line

LARGEST = 32 << 20  # bytes; the index of the largest published checkpoints has under 1 MB


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the object in a JSON file; raises `FileNotFoundError`, and `ValueError` for anything else."""
    path = pathlib.Path(path)
    if not path.is_file():  # a pipe would never end
        raise FileNotFoundError(f"{path} is not there, or is no file")
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path} has {size:,} bytes, and at most {LARGEST:,} are read; fetch or export it again")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({one_line(error)})") from error
    if not isinstance(fields, Mapping):
        raise ValueError(f"{path} holds no JSON object")
    return dict(fields)

"""One short hash for everything that is told apart by its content: data, embeddings, index files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np


def fingerprint(*contents: bytes | str | np.ndarray) -> str:
    """Returns a hash of the contents, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for content in contents:
        if isinstance(content, np.ndarray):
            content = np.ascontiguousarray(content).tobytes()
        content = content.encode() if isinstance(content, str) else content
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()[:16]


def fingerprint_files(paths: Sequence[str | os.PathLike]) -> str:
    """Returns a hash of the contents of files, 16 hexadecimal digits; they are read piece by piece."""
    whole = []
    for path in paths:
        with open(path, "rb") as file:
            whole.append(hashlib.file_digest(file, "sha256").digest())
    return fingerprint(*whole)

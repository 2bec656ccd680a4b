"""Short content hashes: identify data, embeddings and index files by what they contain."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np


def fingerprint(*contents: bytes | str | np.ndarray) -> str:
    """Return a hash of the contents as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for content in contents:
        if isinstance(content, np.ndarray):
            content = np.ascontiguousarray(content).tobytes()
        content = content.encode() if isinstance(content, str) else content
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()[:16]


def fingerprint_files(paths: Sequence[str | os.PathLike]) -> str:
    """Return a hash of the contents of files as 16 hexadecimal digits; files are streamed, not loaded."""
    digests = []
    for path in paths:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return fingerprint(*digests)

"""Checksums of the files in a folder: the file `SHA256SUMS`, which `sha256sum --check SHA256SUMS` also reads."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
from collections.abc import Iterable

from foundation.files.atomic import write_text

SUMS_FILE = "SHA256SUMS"
_MAX_BYTES = 1 << 20
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal; the file is streamed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: str | os.PathLike, names: Iterable[str]) -> None:
    """Write `SHA256SUMS` for the named files of a folder."""
    folder = pathlib.Path(folder)
    write_text(folder / SUMS_FILE, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in sorted(names)))


def read_checksums(folder: str | os.PathLike) -> dict[str, str]:
    """Return the checksums in the `SHA256SUMS` of a folder by file name; empty without one.

    Files in folders below it, as other programs list them, are left out. Raises `ValueError` for a damaged file.
    """
    path = pathlib.Path(folder) / SUMS_FILE
    if not path.is_file():
        return {}
    with open(path, "rb") as file:
        lines = file.read(_MAX_BYTES).decode("utf-8", "replace").removesuffix("\n").split("\n")
    matches = [_LINE.fullmatch(line.removesuffix("\r")) for line in lines]
    if None in matches:
        raise ValueError(f"{path} is damaged. Restore it from a copy, or remove it to skip the check of the files.")
    return {match.group(2): match.group(1).lower() for match in matches if "/" not in match.group(2)}


def changed_files(folder: str | os.PathLike, names: Iterable[str] | None = None) -> list[str]:
    """Return those of the named files (default: all listed ones) whose content differs from that in `SHA256SUMS`.

    Files that are not listed or do not exist are not among them.
    """
    folder = pathlib.Path(folder)
    sums = read_checksums(folder)
    wanted = sums if names is None else [name for name in names if name in sums]
    return [name for name in wanted if (folder / name).is_file() and sha256_of(folder / name) != sums[name]]

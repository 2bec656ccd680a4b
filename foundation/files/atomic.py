"""Atomic file writing: a reader sees the old file or the new one, never a part, also after a power loss."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

PARTIAL_PREFIX = ".partial-"


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary path next to `path`; on success the file written there is synced and replaces `path`.

    Parent folders are created. If the body raises, `path` is left as it was.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=PARTIAL_PREFIX) as folder:
        temporary = pathlib.Path(folder) / path.name
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    _sync(path.parent)


@contextmanager
def atomic_files(*paths: str | os.PathLike, prefix: str = PARTIAL_PREFIX) -> Iterator[list[pathlib.Path]]:
    """Yield one temporary path per target in one folder; on success all files are synced, then replaced in order.

    The replacements are one rename each: put the file that marks the set as complete last. The name of the temporary
    folder starts with `prefix`, by which a caller can find and remove the leftovers of killed processes.
    """
    targets = [pathlib.Path(path) for path in paths]
    folder = targets[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=prefix) as name:
        temporary = [pathlib.Path(name) / path.name for path in targets]
        yield temporary
        for file in temporary:
            _sync(file)
        for file, path in zip(temporary, targets, strict=True):
            os.replace(file, path)
    _sync(folder)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary folder next to `path`; on success the files written there are synced and it replaces `path`.

    Parent folders are created. If the body raises, `path` is left as it was. Between removing the old folder and
    renaming the new one there is a moment without either; after a kill in that moment the next call restores the old
    folder first. Other leftovers of killed processes are removed. Raises `BlockingIOError` where another process is
    writing the same folder.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.partial-"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(FileNotFoundError), _held(leftover) as free:  # its process may remove it now
            if not free:
                raise BlockingIOError(f"another process is writing {path}. Wait until it has ended.")
            if (leftover / "old").exists() and not path.exists():  # killed between the two renames below
                os.replace(leftover / "old", path)
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder, _held(folder):
        temporary = pathlib.Path(folder) / "new"
        temporary.mkdir()
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            _sync(entry)
        if path.exists():
            os.replace(path, pathlib.Path(folder) / "old")
        os.replace(temporary, path)
    _sync(path.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically, line ends unchanged."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write an indented JSON file atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@contextmanager
def _held(folder: str | os.PathLike) -> Iterator[bool]:
    """Hold a folder until the end of the context or process; yield False if another process holds it.

    A file system without locks for folders yields True.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            free = not isinstance(error, BlockingIOError)
        yield free
    finally:
        os.close(descriptor)


def _sync(path: pathlib.Path) -> None:
    """Flush a file or a folder entry to disk; file systems without folder sync (some network mounts) are skipped."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)

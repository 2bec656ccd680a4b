"""Byte-range reads of local and remote files: local ones through descriptors, all others through fsspec."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import glob
import itertools
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from data.io.patterns import expand_braces

_ATTEMPTS = 4
_FIRST_DELAY = 0.25  # seconds; doubled after each attempt
_OPEN_FILES = 128
# Keys under which file systems report a content hash or a time of change, most reliable first.
_STAMPS = ("ETag", "etag", "md5Hash", "crc32c", "Content-MD5", "LastModified", "Last-Modified", "last_modified")
_STAMPS += ("mtime", "updated", "created")
_LISTING_THREADS = 32
_GLOB = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True)
class File:
    """A file found by `find_files`: path or URL, size in bytes, and a stamp that changes when its content does."""

    path: str
    size: int
    stamp: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


def is_remote(path: str) -> bool:
    """Return whether a path is a URL such as `s3://bucket/shard.tar`."""
    return "://" in path


def find_files(pattern: str) -> list[File]:
    """Return the files that match a path or pattern, sorted by path within each expansion of its braces.

    Raises `FileNotFoundError` if no file matches, or if a path without wildcards does not exist; `ValueError` for a
    brace pattern that stands for too many paths.
    """
    with concurrent.futures.ThreadPoolExecutor(_LISTING_THREADS) as threads:  # one request per remote path
        files = list(itertools.chain.from_iterable(threads.map(_find, expand_braces(pattern))))
    if not files:
        raise FileNotFoundError(f"no file matches {pattern!r}")
    return files


def _find(path: str) -> list[File]:
    return _find_remote(path) if is_remote(path) else _find_local(os.path.expanduser(path))


def _find_local(pattern: str) -> list[File]:
    paths = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
    if not paths and not _GLOB.search(pattern):
        raise FileNotFoundError(f"no file matches {pattern!r}")
    files = []
    for path in paths:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):  # reading a pipe could block forever
            files.append(File(path, status.st_size, str(status.st_mtime_ns)))
    return files


def _find_remote(pattern: str) -> list[File]:
    system, path = filesystem(pattern)
    if _GLOB.search(path):
        found = _retry(pattern, lambda: system.glob(path, detail=True))
        infos = [info for _, info in sorted(found.items()) if info["type"] != "directory"]
    else:
        infos = [_retry(pattern, lambda: system.info(path))]
    files = []
    for info in infos:
        url = system.unstrip_protocol(info["name"])
        if info.get("size") is None:
            info = _retry(url, functools.partial(system.info, info["name"]))
        if info.get("size") is None:
            raise OSError(
                f"{url}: the server does not report the file's size. Use one that answers HEAD or range requests."
            )
        files.append(File(url, int(info["size"]), _stamp(info)))
    return files


def _stamp(info: dict[str, Any]) -> str:
    for name in _STAMPS:
        if info.get(name):
            return str(info[name])
    return ""


@functools.lru_cache(maxsize=4096)
def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} cannot be opened ({error})") from error


def read_range(file: File, start: int, stop: int) -> bytes:
    """Return bytes [start, stop) of a file, or fewer at its end.

    Failed remote reads are retried. Raises `OSError` after the last attempt and `FileNotFoundError` for a missing file.
    """
    stop = min(stop, file.size)
    if not is_remote(file.path):
        opened = _open_files.get(file)  # this reference keeps the descriptor open during the read
        return os.pread(opened.fileno(), max(0, stop - start), start)
    if stop <= start:
        return b""
    system, path = filesystem(file.path)
    content = _retry(file.path, lambda: system.cat_file(path, start=start, end=stop))
    if len(content) > stop - start:
        raise OSError(
            f"{file.path}: the server sends whole files instead of ranges. Use one that supports range requests."
        )
    return content


def read_file(path: str) -> bytes:
    """Return the content of a file; raises as `read_range`, and `FileNotFoundError` for pipes and devices."""
    if is_remote(path):
        system, inner = filesystem(path)
        return _retry(path, lambda: system.cat_file(inner))
    with open(path, "rb", opener=_open_nonblocking) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(f"{path} is a pipe or a device, not a regular file")
        return file.read()


def size_and_mtime(path: str) -> tuple[int, int]:
    """Return size in bytes and modification time in ns of a local file; −1 and −1 if it cannot be accessed."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file; a pipe is opened without waiting for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _retry(path: str, read: Callable[[], Any]) -> Any:
    """Return the result of `read`, called again after errors that may pass."""
    for attempt in range(_ATTEMPTS):
        try:
            return read()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path} does not exist") from error
        except PermissionError as error:
            raise PermissionError(f"{path}: access denied ({error})") from error
        except Exception as error:  # every file system has its own error types
            if attempt == _ATTEMPTS - 1:
                raise OSError(f"{path} cannot be read after {_ATTEMPTS} attempts ({error!r:.200})") from error
            time.sleep(_FIRST_DELAY * 2**attempt)
    raise AssertionError


class _OpenFiles:
    """The most recently read local files, kept open. An evicted file closes when its last reader releases it."""

    def __init__(self, limit: int):
        self._limit = limit
        self._files: collections.OrderedDict[File, IO[bytes]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: File) -> IO[bytes]:
        with self._lock:
            opened = self._files.get(file)
            if opened is not None:
                self._files.move_to_end(file)
                return opened
        opened = open(file.path, "rb", buffering=0)  # noqa: SIM115 - shared by readers, closed by the last one
        with self._lock:
            opened = self._files.setdefault(file, opened)  # another thread may have opened it first
            while len(self._files) > self._limit:
                self._files.popitem(last=False)
        return opened


_open_files = _OpenFiles(_OPEN_FILES)

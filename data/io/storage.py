"""Files by range, wherever they lie: local disks by descriptor, everything else through fsspec."""

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
from typing import IO, Any

_ATTEMPTS = 4
_FIRST_PAUSE = 0.25  # seconds; doubled after each attempt
_OPEN_FILES = 128
# What file systems call what changes with a file's content, the surest first.
_STAMPS = ("ETag", "etag", "md5Hash", "crc32c", "Content-MD5", "LastModified", "Last-Modified", "last_modified")
_STAMPS += ("mtime", "updated", "created")
_LISTERS = 32  # threads
_GLOB = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclasses.dataclass(frozen=True)
class File:
    """A file as it was found: its path or URL, its size in bytes, and a stamp that changes when its content does."""

    path: str
    size: int
    stamp: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


def is_remote(path: str) -> bool:
    """Tells a URL such as `s3://bucket/shard.tar` from a local path."""
    return "://" in path


def expand_braces(pattern: str) -> list[str]:
    """Returns the paths that `{00000..00099}` and `{a,b}` stand for, in order; the pattern itself without braces."""
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if bounds:
        width = len(bounds[1])
        options = [f"{number:0{width}d}" for number in range(int(bounds[1]), int(bounds[2]) + 1)]
    else:
        options = found[1].split(",")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return list(itertools.chain.from_iterable(expand_braces(before + option + after) for option in options))


def find_files(pattern: str) -> list[File]:
    """Returns the files that a path or pattern matches, sorted by path within each expansion of braces.

    Raises `FileNotFoundError` where there is none, or where one that is named in full is not there.
    """
    with concurrent.futures.ThreadPoolExecutor(_LISTERS) as threads:  # a request each, where it is remote
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
        if stat.S_ISREG(status.st_mode):  # a pipe would never end
            files.append(File(path, status.st_size, str(status.st_mtime_ns)))
    return files


def _find_remote(pattern: str) -> list[File]:
    system, path = filesystem(pattern)
    if _GLOB.search(path):
        found = _persistently(pattern, lambda: system.glob(path, detail=True))
        infos = [info for _, info in sorted(found.items()) if info["type"] != "directory"]
    else:
        infos = [_persistently(pattern, lambda: system.info(path))]
    files = []
    for info in infos:
        url = system.unstrip_protocol(info["name"])
        if info.get("size") is None:
            info = _persistently(url, functools.partial(system.info, info["name"]))
        if info.get("size") is None:
            raise OSError(f"{url}: the server does not tell the file's size; it must answer HEAD or range requests")
        files.append(File(url, int(info["size"]), _stamp(info)))
    return files


def _stamp(info: dict[str, Any]) -> str:
    for name in _STAMPS:
        if info.get(name):
            return str(info[name])
    return ""


@functools.lru_cache(maxsize=4096)
def filesystem(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} cannot be opened ({error})") from error


def read_range(file: File, start: int, stop: int) -> bytes:
    """Returns bytes [start, stop) of a file; fewer where the file ends before.

    A remote read that fails is tried again; raises `OSError` after the last try, `FileNotFoundError` for no file.
    """
    stop = min(stop, file.size)
    if not is_remote(file.path):
        opened = _open_files.get(file)  # held until the read is done: nobody else may hold it by then
        return os.pread(opened.fileno(), max(0, stop - start), start)
    if stop <= start:
        return b""
    system, path = filesystem(file.path)
    content = _persistently(file.path, lambda: system.cat_file(path, start=start, end=stop))
    if len(content) > stop - start:
        raise OSError(f"{file.path}: the server sends whole files instead of ranges; serve it from one that knows them")
    return content


def read_file(path: str) -> bytes:
    """Returns a whole file; raises as `read_range` does, and `FileNotFoundError` for pipes and devices."""
    if is_remote(path):
        system, inner = filesystem(path)
        return _persistently(path, lambda: system.cat_file(inner))
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # which may never end
            raise FileNotFoundError(f"{path} is a pipe or a device, and no file")
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file, and a pipe without waiting for someone who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _persistently(path: str, read: Any) -> Any:
    for attempt in range(_ATTEMPTS):
        try:
            return read()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path} is not there") from error
        except PermissionError as error:
            raise PermissionError(f"{path}: access denied ({error})") from error
        except Exception as error:  # each file system has errors of its own
            if attempt == _ATTEMPTS - 1:
                raise OSError(f"{path} cannot be read after {_ATTEMPTS} attempts ({error!r:.200})") from error
            time.sleep(_FIRST_PAUSE * 2**attempt)
    raise AssertionError


class _OpenFiles:
    """The local files that were read last, kept open. One that falls out closes when its last reader lets go."""

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
        opened = open(file.path, "rb", buffering=0)  # noqa: SIM115 - shared by readers, closed by the last
        with self._lock:
            opened = self._files.setdefault(file, opened)  # another thread may have been faster
            while len(self._files) > self._limit:
                self._files.popitem(last=False)
        return opened


_open_files = _OpenFiles(_OPEN_FILES)

"""Where the samples of a `.tar` shard lie: an index built once by walking its headers, kept in a file of its own."""

from __future__ import annotations

import concurrent.futures
import json
import mmap
import multiprocessing
import os
import pathlib
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import File, is_remote, read_range

VERSION = 2
FOLDER = ".tar-index"
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "avif")
PARTS = ("image", "json", "txt", "cls")
_BLOCK = 512
_READ_AHEAD = 8 << 20  # bytes of a remote shard that are fetched at once
_ALONE = 64 << 20  # bytes of shards that one process indexes sooner than others would start
_NAME = re.compile(r"(?P<key>(?:.*/)?[^/.]+)\.(?P<suffix>[^/]+)", re.DOTALL)
_LONGEST_END = 4 << 20  # bytes of zeros that end an archive, which are written in records of some size
LONGEST_HEADER = 1 << 16  # bytes of an index file
_LONG_NAME = 1 << 20  # bytes; names above it are damage


class Member(NamedTuple):
    """A file in the archive: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


class Index(NamedTuple):
    """The samples of one shard.

    `spans` `[samples, parts, 2]` int64 holds offset and size of each of `PARTS`, −1 and 0 where it is missing; `names`
    their keys, UTF-8, end to end, with `name_ends` `[samples]`. `problem` tells damage of the archive, or is empty.
    """

    spans: np.ndarray
    names: bytes
    name_ends: np.ndarray
    problem: str

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with names and places of the samples."""
        return fingerprint(self.spans, self.names)


class DamagedArchive(ValueError):
    """The headers end before the archive does."""


def walk(read: Callable[[int, int], bytes], size: int) -> Iterator[Member]:
    """Yields the files of an archive of `size` bytes, of which `read(start, stop)` returns parts.

    Knows the ustar, GNU and pax formats. Raises `DamagedArchive` at the first header that is none, or where the archive
    is cut off.
    """
    offset, long_name, pax = 0, None, {}
    while True:
        header = read(offset, offset + _BLOCK)
        if len(header) < _BLOCK:
            raise DamagedArchive(f"it is cut off at byte {offset + len(header):,}")
        if header[0] == 0 and not any(header):
            if size - offset > _LONGEST_END or read(offset, size).strip(b"\0"):
                raise DamagedArchive(f"there are zeros in place of a header at byte {offset:,}")
            return
        start = offset + _BLOCK
        kind = header[156:157]
        try:
            # Adler-32's lower half is 1 plus the bytes' sum, modulo 65,521; the checksum counts its own 8 as spaces.
            total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 256
            if (int(header[148:156].strip(b"\0 ") or b"-1", 8) - total) % 65_521:
                raise ValueError
            length = int(pax["size"]) if "size" in pax else _number(header[124:136])
            if not 0 <= length < 1 << 62:
                raise ValueError
        except ValueError:
            raise DamagedArchive(f"there is no header at byte {offset:,}") from None
        if kind in b"LKxg":
            if length > _LONG_NAME:
                raise DamagedArchive(f"there is no header at byte {offset:,}")
            content = read(start, start + length)
            if kind == b"L":
                long_name = content.rstrip(b"\0")
            elif kind == b"x":
                pax = _pax(content)
        else:
            name = pax.get("path") or _text(long_name if long_name is not None else _short_name(header))
            regular = kind in b"07\0" and not name.endswith("/")
            long_name, pax = None, {}
            if kind == b"S" and header[482]:  # the map of a sparse file goes on in blocks of its own
                extended = True
                while extended:
                    block = read(start, start + _BLOCK)
                    extended, start = len(block) == _BLOCK and block[504], start + _BLOCK
            if kind in b"123456":  # links, devices and folders have no bytes
                length = 0
            if regular:
                yield Member(name, start, length)
        offset = start + (length + _BLOCK - 1) // _BLOCK * _BLOCK
        if offset > size:
            raise DamagedArchive(f"it is cut off at byte {size:,}")


def _number(field: bytes) -> int:
    if field[0] in (0x80, 0xFF):  # base 256, for what octal digits cannot hold
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    return int(field.strip(b"\0 ") or b"0", 8)


def _short_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        return header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _pax(content: bytes) -> dict[str, str]:
    """Returns the records of an extended header: lines of `LENGTH KEY=VALUE`, where the length counts the line."""
    records, position = {}, 0
    while position < len(content):
        digits = content[position : position + 20].split(b" ", 1)[0]
        if not digits.isdigit() or int(digits) <= len(digits) + 1:
            break
        line = content[position + len(digits) + 1 : position + int(digits) - 1]
        name, _, value = line.partition(b"=")
        records[_text(name)] = _text(value)
        position += int(digits)
    return records


def index_members(members: Iterator[Member]) -> Index:
    """Groups members into samples as webdataset does: what stands before the first dot of the file name is the key.

    Of several files that may be one part, `KEY.jpg` comes before `KEY.seg.png`, and the first before others. A name
    that comes again starts a new sample. Damage is told, and what came before it is kept.
    """
    spans: list[list[int]] = []
    names: list[str] = []
    ends: list[int] = []
    last: dict[str, tuple[list[int], set[str]]] = {}  # of each key, with the suffixes that it has had
    problem = ""
    try:
        for name, offset, size in members:
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            key, suffix = match["key"], match["suffix"].lower()
            part = _part(suffix)
            if part is None:
                continue
            sample, seen = last.get(key, (None, ()))
            if suffix in seen or sample is None:
                sample, seen = last[key] = [-1, 0] * len(PARTS), set()
                spans.append(sample)
                names.append(key)
            plain = "." not in suffix
            if sample[2 * part] < 0 or (plain and not any(_part(other) == part and "." not in other for other in seen)):
                sample[2 * part], sample[2 * part + 1] = offset, size
            seen.add(suffix)
    except DamagedArchive as damage:
        problem = str(damage)
    encoded = [name.encode("utf-8", "backslashreplace") for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    table = np.array(spans, np.int64).reshape(-1, len(PARTS), 2)
    return Index(table, b"".join(encoded), ends, problem)


def _part(suffix: str) -> int | None:
    last = suffix.rpartition(".")[2]
    if last in IMAGE_SUFFIXES:
        return 0
    return PARTS.index(last) if last in PARTS[1:] else None


def build_index(file: File) -> Index:
    """Walks one shard; raises `ValueError` for a compressed one and `OSError` where it cannot be read."""
    start = read_range(file, 0, 8)
    if (
        start[:2] == b"\x1f\x8b"
        or start[:3] == b"BZh"
        or start[:4] == b"\x28\xb5\x2f\xfd"
        or start[:6] == b"\xfd7zXZ\0"
    ):
        raise ValueError(
            f"shard {file.path} is compressed, and cannot be read by offset; decompress it to a plain .tar"
        )
    if file.size == 0:
        return index_members(iter(()))._replace(problem="it has no bytes")
    if is_remote(file.path):
        return index_members(walk(_read_ahead(file), file.size))
    with open(file.path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return index_members(walk(lambda start, stop: mapped[start:stop], file.size))


def _read_ahead(file: File) -> Callable[[int, int], bytes]:
    block, at = b"", 0

    def read(start: int, stop: int) -> bytes:
        nonlocal block, at
        if not at <= start <= stop <= at + len(block):
            block, at = read_range(file, start, max(stop, start + _READ_AHEAD)), start
        return block[start - at : stop - at]

    return read


def index_path(file: File, cache_dir: str | os.PathLike) -> pathlib.Path:
    """Returns where the index of a shard is kept: beside it, or in `cache_dir` where one cannot write beside it."""
    name = f"{file.name}.safetensors"
    if not is_remote(file.path):
        folder = pathlib.Path(file.path).parent
        beside = folder / FOLDER / name
        place = beside.parent if beside.parent.exists() else folder
        if read_summary(beside, file) or os.access(place, os.W_OK):
            return beside
    where = file.path if is_remote(file.path) else os.path.abspath(file.path)
    return pathlib.Path(cache_dir) / FOLDER / fingerprint(where.rpartition("/")[0]) / name


class Summary(NamedTuple):
    """What an index file says of itself before its arrays are read."""

    samples: int
    problem: str
    digest: str  # changes with names and places of the samples


def read_summary(path: pathlib.Path, file: File) -> Summary | None:
    """Returns the summary of the index at `path`; None where there is none, or where the shard is another by now."""
    try:
        with open(path, "rb", buffering=0) as opened:
            length = int.from_bytes(opened.read(8), "little")
            metadata = json.loads(opened.read(min(length, LONGEST_HEADER)))["__metadata__"]
            if metadata["shard"] == f"{VERSION} {file.size} {file.stamp}" and int(metadata["samples"]) >= 0:
                return Summary(int(metadata["samples"]), str(metadata["problem"]), str(metadata["digest"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def write_index(path: pathlib.Path, file: File, index: Index) -> None:
    """Writes an index file; it appears whole or not at all."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"shard": f"{VERSION} {file.size} {file.stamp}", "samples": str(len(index.spans))}
    metadata |= {"problem": index.problem, "digest": index.digest}
    arrays = {
        "spans": index.spans,
        "name_ends": index.name_ends,
        "names": np.frombuffer(index.names, np.uint8),
    }
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as temporary:
        partial = pathlib.Path(temporary) / path.name
        save_file(arrays, partial, metadata=metadata)
        partial.chmod(0o666 & ~_umask())  # as if it had been opened for writing; safetensors keeps others out
        os.replace(partial, path)


def _umask() -> int:
    """Returns the mask of new files' permissions, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _build(task: tuple[File, pathlib.Path]) -> Summary:
    file, path = task
    index = build_index(file)
    write_index(path, file, index)
    return Summary(len(index.spans), index.problem, index.digest)


def ensure_indexes(files: Sequence[File], cache_dir: str | os.PathLike) -> list[tuple[pathlib.Path, Summary]]:
    """Returns path and summary of each shard's index, and builds those that are missing or old, in parallel.

    Shows progress on the standard error stream when it takes longer than two seconds; what was built before an
    interruption is kept.
    """
    paths = [index_path(file, cache_dir) for file in files]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        summaries = list(threads.map(read_summary, paths, files))
    missing = [number for number, summary in enumerate(summaries) if summary is None]
    tasks = [(files[number], paths[number]) for number in missing]
    for number, summary in zip(missing, _build_all(tasks), strict=True):
        summaries[number] = summary
    return list(zip(paths, summaries, strict=True))


def _build_all(tasks: list[tuple[File, pathlib.Path]]) -> Iterator[Summary]:
    from tqdm import tqdm

    total = sum(file.size for file, _ in tasks)
    processes = min(len(tasks), len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 1
    with tqdm(desc="indexing shards", total=total, unit="B", unit_scale=True, delay=2, mininterval=1) as progress:
        if processes < 2 or total < _ALONE:
            done = map(_build, tasks)
        else:
            context = multiprocessing.get_context("spawn")
            pool = concurrent.futures.ProcessPoolExecutor(processes, mp_context=context)
            done = pool.map(_build, tasks, chunksize=max(1, min(32, len(tasks) // (8 * processes))))
        try:
            for (file, _), summary in zip(tasks, done, strict=True):
                yield summary
                progress.update(file.size)
        finally:
            if processes >= 2 and total >= _ALONE:
                pool.shutdown(cancel_futures=True)

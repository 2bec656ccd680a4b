"""Index files of `.tar` shards: the position of every sample, found once by scanning the headers of a shard."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import mmap
import multiprocessing
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import File, is_remote, read_range
from data.sources.tar_headers import iter_members
from data.sources.tar_samples import NameNotes, ShardIndex, index_members
from foundation.files.atomic import atomic_file
from foundation.progress import ProgressBar

logger = logging.getLogger(__name__)

VERSION = 4
FOLDER = ".tar-index"
_MAX_NAME_BYTES = 255  # of a file
MAX_HEADER_BYTES = 1 << 16  # of an index file
_READ_AHEAD = 8 << 20  # bytes of a remote shard per request
_SERIAL_BYTES = 64 << 20  # one process indexes this many bytes faster than worker processes start
_LISTING_THREADS = 16
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0")  # gzip, bzip2, zstandard, xz


class IndexSummary(NamedTuple):
    """The header of an index file."""

    samples: int
    problem: str
    digest: str  # changes with the names and positions of the samples
    notes: NameNotes


class IndexFile(NamedTuple):
    """An index on disk."""

    path: pathlib.Path
    summary: IndexSummary


def build_index(file: File) -> ShardIndex:
    """Index one shard; raises `ValueError` for a compressed shard and `OSError` if it cannot be read."""
    if read_range(file, 0, 8).startswith(_COMPRESSED):
        raise ValueError(
            f"shard {file.path} is compressed, which prevents reads by offset. Decompress it to a plain .tar."
        )
    if file.size == 0:
        return index_members(iter(()))._replace(problem="empty file")
    if is_remote(file.path):
        return index_members(iter_members(_buffered_reader(file), file.size))
    with open(file.path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return index_members(iter_members(lambda start, stop: mapped[start:stop], file.size))


def _buffered_reader(file: File) -> Callable[[int, int], bytes]:
    buffer, position = b"", 0

    def read(start: int, stop: int) -> bytes:
        nonlocal buffer, position
        if not position <= start <= stop <= position + len(buffer):
            buffer, position = read_range(file, start, max(stop, start + _READ_AHEAD)), start
        return buffer[start - position : stop - position]

    return read


def index_path(file: File, cache_dir: str | os.PathLike) -> pathlib.Path:
    """Return the path of a shard's index: in `cache_dir`, or next to the shard if there is a folder `.tar-index`."""
    name = f"{file.name}.safetensors"
    path = file.path if is_remote(file.path) else os.path.abspath(file.path)
    folder = pathlib.Path(cache_dir) / FOLDER
    if len(name.encode()) > _MAX_NAME_BYTES:
        name = f"{fingerprint(file.name)}.safetensors"
    if not is_remote(path):
        own = pathlib.Path(path).parent / FOLDER
        is_cache = os.path.abspath(folder) == os.path.abspath(own)
        if own.is_dir() and not is_cache and (os.access(own, os.W_OK) or read_summary(own / name, file)):
            return own / name
    return folder / fingerprint(path.rpartition("/")[0]) / name


def read_summary(path: pathlib.Path, file: File) -> IndexSummary | None:
    """Return the header of the index at `path`, or None if it is missing, damaged, or older than the shard.

    Damage is logged. The arrays are not read; whoever maps them checks them with `checksum`.
    """
    try:
        with open(path, "rb", buffering=0) as opened:
            length = int.from_bytes(opened.read(8), "little")
            metadata = json.loads(opened.read(min(length, MAX_HEADER_BYTES)))["__metadata__"]
            if "header" in metadata and metadata["header"] != _header_checksum(metadata):
                raise ValueError("its header does not have its checksum")
            if metadata["shard"] == f"{VERSION} {file.size} {file.stamp}" and int(metadata["samples"]) >= 0:
                notes = NameNotes(**json.loads(metadata["notes"]))
                return IndexSummary(int(metadata["samples"]), str(metadata["problem"]), str(metadata["digest"]), notes)
    except OSError:
        pass
    except (ValueError, KeyError, TypeError, RecursionError):
        logger.warning(f"the index {path} of {file.path} is damaged and built again")
    return None


def checksum(spans: np.ndarray, names: np.ndarray | bytes, name_ends: np.ndarray) -> str:
    """Return the CRC-32 of the arrays of an index, which its header has as `arrays`."""
    found = 0
    for array in (spans, names, name_ends):
        found = zlib.crc32(array, found)
    return f"{found:08x}"


def _header_checksum(metadata: Mapping[str, str]) -> str:
    fields = {name: value for name, value in metadata.items() if name != "header"}
    return f"{zlib.crc32(json.dumps(fields, sort_keys=True).encode()):08x}"


def write_index(path: pathlib.Path, index: ShardIndex, *, file: File) -> None:
    """Write the index of a shard atomically."""
    from safetensors.numpy import save_file

    metadata = {"shard": f"{VERSION} {file.size} {file.stamp}", "samples": str(len(index.spans))}
    metadata |= {"problem": index.problem, "digest": index.digest, "notes": json.dumps(index.notes._asdict())}
    metadata["arrays"] = checksum(index.spans, index.names, index.name_ends)
    metadata["header"] = _header_checksum(metadata)
    arrays = {
        "spans": index.spans,
        "name_ends": index.name_ends,
        "names": np.frombuffer(index.names, np.uint8),
    }
    with atomic_file(path) as temporary:
        save_file(arrays, temporary, metadata=metadata)
        temporary.chmod(0o666 & ~_umask())  # the usual permissions; safetensors excludes other users


def _umask() -> int:
    """Return the mask of new files' permissions, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def ensure_indexes(files: Sequence[File], cache_dir: str | os.PathLike) -> list[IndexFile]:
    """Return the index of each shard; missing and outdated ones are built in parallel.

    Shows progress if building takes longer than two seconds. Indexes built before an interruption are kept.
    """
    paths = [index_path(file, cache_dir) for file in files]
    with concurrent.futures.ThreadPoolExecutor(_LISTING_THREADS) as threads:
        summaries = list(threads.map(read_summary, paths, files))
    missing = [number for number, summary in enumerate(summaries) if summary is None]
    built = _build_all([files[number] for number in missing], [paths[number] for number in missing])
    for number, summary in zip(missing, built, strict=True):
        summaries[number] = summary
    return list(map(IndexFile, paths, summaries))


def _build_all(files: list[File], paths: list[pathlib.Path]) -> Iterator[IndexSummary]:
    total = sum(file.size for file in files)
    processes = min(len(files), len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 1
    pool = None
    with ProgressBar(total, description="indexing shards", unit="B", delay=2.0) as progress:
        if processes < 2 or total < _SERIAL_BYTES:
            built = map(_build_and_write, files, paths)
        else:
            context = multiprocessing.get_context("spawn")
            pool = concurrent.futures.ProcessPoolExecutor(processes, mp_context=context)
            chunksize = max(1, min(32, len(files) // (8 * processes)))
            built = pool.map(_build_and_write, files, paths, chunksize=chunksize)
        try:
            for file, summary in zip(files, built, strict=True):
                yield summary
                progress.update(file.size)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)


def _build_and_write(file: File, path: pathlib.Path) -> IndexSummary:
    index = build_index(file)
    write_index(path, index, file=file)
    return IndexSummary(len(index.spans), index.problem, index.digest, index.notes)

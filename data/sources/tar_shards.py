"""Image-text samples in `.tar` shards of webdataset and img2dataset, read by offset and never extracted."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import logging
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.io.fingerprint import fingerprint
from data.io.storage import File, read_range
from data.sources.base import (
    MAX_PART_BYTES,
    BadRecord,
    ContentDigest,
    Record,
    find_texts,
    parse_class,
)
from data.sources.content import evenly_spaced
from data.sources.folders.text_files import RETRIEVAL, dataset_type
from data.sources.tar_index import MAX_HEADER_BYTES, build_index, checksum, ensure_indexes, write_index
from data.sources.tar_samples import PARTS, NameNotes
from foundation.progress import track

logger = logging.getLogger(__name__)

_OPEN_INDEXES = 256
_MAX_GAP = 1 << 16  # bytes between the parts of a sample; larger gaps are skipped by separate reads
_WHOLE_SAMPLES, _TEXTS = 2048, 32768  # that `content_digests` reads of all shards
_READERS = 32  # threads
_MAX_LISTED = 5  # damaged shards in a message


class TarShards:
    """A `Source` of the samples of several shards, one shard after the other.

    A sample is an image, `KEY.jpg` or another of `image_folders.SUFFIXES`, with `KEY.json`, `KEY.txt` or both. Its
    texts are the value of the first of `text_keys` in the JSON, a string or a list of strings; the key `txt` stands for
    the `.txt` member. Its class is given by `label` and `class` in the JSON, or by a number or a name in `KEY.cls`.

    If a file `dataset_type.txt` says `retrieval`, each line of `KEY.txt` is a text of its own.

    Raises `ValueError` if no shard holds a sample. Damaged shards are logged, and the samples before the damage are
    used; unusual names are logged with their number.
    """

    def __init__(self, files: Sequence[File], *, cache_dir: str | os.PathLike, text_keys: tuple[str, ...]):
        self._files, self._text_keys = list(files), text_keys
        self._lines = dataset_type(self._files[0].path) == RETRIEVAL
        indexes = ensure_indexes(self._files, cache_dir)
        self._indexes = [path for path, _ in indexes]
        # Keys contain the path of the shard within the common folder.
        self._folder = os.path.commonpath([os.path.dirname(file.path) for file in self._files])
        self._ends = np.cumsum([summary.samples for _, summary in indexes], dtype=np.int64)
        self.problems = {
            file.path: summary.problem
            for file, (_, summary) in zip(self._files, indexes, strict=True)
            if summary.problem
        }
        damaged = "; ".join(f"{path}: {problem}" for path, problem in list(self.problems.items())[:_MAX_LISTED])
        notes = _describe_notes(self._files, [summary.notes for _, summary in indexes])
        if not len(self):
            reason = damaged or " ".join(notes)
            raise ValueError(
                f"no sample in {len(files)} shard(s) such as {files[0].path}" + (f" ({reason})" if reason else "")
            )
        if self.problems:
            more = " …" if len(self.problems) > _MAX_LISTED else ""
            logger.warning(
                f"{len(self.problems)} of {len(files)} shards are damaged; using the samples before the damage: "
                f"{damaged}{more}"
            )
        for note in notes:
            logger.warning(note)
        if self._lines:
            logger.info(f"{self._folder}: each line of a .txt is a caption, as dataset_type.txt says {RETRIEVAL}")
        self._digests = [summary.digest for _, summary in indexes]
        digests = (f"{file.name} {digest}" for file, digest in zip(self._files, self._digests, strict=True))
        self.fingerprint = fingerprint(*digests, *text_keys, *(["lines"] if self._lines else []))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        sample = self._locate(index)
        parts = _read_parts(sample)
        if "image" not in parts:
            raise BadRecord("no image", sample.key, f"the sample has no image, only {', '.join(sorted(parts))}")
        fields = _parse(parts["json"], sample.key) if "json" in parts else {}
        is_empty = fields.get("label") is None or not str(fields["label"]).strip()
        label, name = parse_class(parts.get("cls") if is_empty else fields["label"], fields.get("class"))
        return Record(
            key=sample.key,
            image=parts["image"],
            texts=self._find_texts(fields, parts.get("txt"), sample.key),
            label=label,
            class_name=name,
            metadata=fields,
        )

    def key(self, index: int) -> str:
        """Return the key of a sample, `SHARD/KEY`."""
        return self._locate(index).key

    def content_fingerprint(self) -> str:
        """Return a hash of the shards' names, sizes and modification times (or the server's equivalent)."""
        return fingerprint(self.fingerprint, *(file.stamp for file in self._files))

    def content_digests(self) -> list[ContentDigest]:
        """Return a digest of each shard: names and positions of all its samples, and the content of some of them.

        At most 32,768 texts and 2,048 whole samples are read, but at least one of each per shard.
        """
        numbers = range(len(self._files))
        with concurrent.futures.ThreadPoolExecutor(_READERS) as threads:
            digests = threads.map(self._content_digest, numbers)
            return list(track(digests, total=len(numbers), description="reading samples of shards"))

    def _content_digest(self, number: int) -> ContentDigest:
        start = int(self._ends[number - 1]) if number else 0
        length, files = int(self._ends[number]) - start, len(self._files)
        whole = set(evenly_spaced(length, max(1, _WHOLE_SAMPLES // files)))
        contents = []
        for row in sorted(whole.union(evenly_spaced(length, max(1, _TEXTS // files)))):
            try:
                parts = _read_parts(self._locate(start + row), PARTS if row in whole else PARTS[1:])
                contents += [part for pair in sorted(parts.items()) for part in pair]
            except BadRecord as error:
                contents.append(error.reason)
        return ContentDigest(self._files[number].name, fingerprint(self._digests[number], *contents))

    def texts(self, index: int) -> tuple[str, ...]:
        """Return the texts of a sample without reading its image."""
        sample = self._locate(index)
        parts = _read_parts(sample, ("json", "txt"))
        fields = _parse(parts["json"], sample.key) if "json" in parts else {}
        return self._find_texts(fields, parts.get("txt"), sample.key)

    def _find_texts(self, fields: Mapping[str, Any], txt: bytes | None, key: str) -> tuple[str, ...]:
        if txt is not None and txt.strip():
            fields = {**fields, "txt": _lines_of(txt) if self._lines else txt}
        return find_texts(fields, self._text_keys, key=key)

    def _locate(self, index: int) -> _SampleSpans:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        file, row = self._files[number], index - (int(self._ends[number - 1]) if number else 0)
        opened = _open_index(self._indexes[number], file)
        start = int(opened.name_ends[row - 1]) if row else 0
        name = bytes(opened.names[start : int(opened.name_ends[row])]).decode("utf-8")
        shard = file.path[len(self._folder) :].lstrip("/") if file.path.startswith(self._folder) else file.name
        return _SampleSpans(file, f"{shard}/{name}", opened.spans[row].tolist())


def _lines_of(text: bytes) -> list[bytes]:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")


def _describe_notes(files: Sequence[File], notes: Sequence[NameNotes]) -> list[str]:
    """Return the number of unusual names in the shards of a source, one text for each kind."""

    def total(field: str) -> int:
        return sum(getattr(each, field) for each in notes)

    def example(field: str) -> str:
        names = ((file.name, getattr(each, f"{field}_example")) for file, each in zip(files, notes, strict=True))
        return next(f"{shard}/{name}" for shard, name in names if name)

    return [
        f"{total(kind)} {text.format(example=example(kind), joined=total('joined'))}"
        for kind, text in _NOTES.items()
        if total(kind)
    ]


_NOTES = {  # field of `NameNotes` → what follows its number
    "divided": (
        "samples have dots in their names, such as {example}; their keys end at the last dot. By webdataset's rule, "
        "the first dot, they would be {joined} samples."
    ),
    "ambiguous": (
        "samples have several files for their image or a text, such as {example}; the one without further dots in its "
        "name is used, otherwise the first."
    ),
    "dangling": (
        "links, such as {example}, lead to files that are not in their shard, and are left out. Write the shard with "
        "tar --dereference --hard-dereference."
    ),
    "sparse": (
        "files, such as {example}, are stored with holes and are left out. Write the shard without tar --sparse (-S)."
    ),
    "unreadable": (
        "images, such as {example}, have a format that cannot be read, and are left out. Convert them to JPEG or PNG."
    ),
    "system": "files that macOS or Windows added, such as {example}, are left out.",
}


class _SampleSpans(NamedTuple):
    """The shard of a sample, its key, and offset and size of each of `PARTS`."""

    file: File
    key: str
    spans: list[list[int]]


class _OpenIndex(NamedTuple):
    spans: np.ndarray
    names: np.ndarray
    name_ends: np.ndarray


class _DamagedIndex(ValueError):
    """An index file with unusable content."""


_lock = threading.Lock()
_checked: set[pathlib.Path] = set()  # indexes that this process has compared with their checksum


def _open_index(path: pathlib.Path, file: File) -> _OpenIndex:
    with _lock:
        return _map_index(path, file)


@functools.lru_cache(maxsize=_OPEN_INDEXES)
def _map_index(path: pathlib.Path, file: File) -> _OpenIndex:
    """Map the arrays of an index file into memory; `file` is a cache key, so that a rebuilt index is opened again.

    The arrays are compared with their checksum when this process first maps them. A damaged index is built again.
    """
    try:
        return _read_index(path)
    except _DamagedIndex as damage:
        logger.warning(f"the index {path} of {file.path} is damaged and built again ({damage})")
    index = build_index(file)
    with contextlib.suppress(OSError):  # on a read-only file system, it is built again by the next process
        write_index(path, index, file=file)
    return _OpenIndex(index.spans, np.frombuffer(index.names, np.uint8), index.name_ends)


def _read_index(path: pathlib.Path) -> _OpenIndex:
    try:
        with open(path, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, MAX_HEADER_BYTES)))
        content = np.memmap(path, np.uint8, "r", offset=8 + length).view(np.ndarray)
        arrays = {}
        for name, kind in (("spans", np.int64), ("names", np.uint8), ("name_ends", np.int64)):
            start, stop = header[name]["data_offsets"]
            arrays[name] = content[start:stop].view(kind).reshape(header[name]["shape"])
        shapes = arrays["spans"].shape, arrays["name_ends"].shape
        samples = int(header["__metadata__"]["samples"])
        if shapes != ((samples, len(PARTS), 2), (samples,)):
            raise ValueError(f"arrays of shapes {shapes} for {samples} samples")
        expected = header["__metadata__"].get("arrays")  # indexes of earlier versions have none
        if path not in _checked and expected is not None and expected != checksum(**arrays):
            raise ValueError("it does not have its checksum")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _DamagedIndex(f"{error}") from error
    _checked.add(path)
    return _OpenIndex(**arrays)


def _read_parts(sample: _SampleSpans, wanted: tuple[str, ...] = PARTS) -> dict[str, bytes]:
    """Return the wanted parts that the sample has, in one read if they are close together."""
    spans = {part: span for part, span in zip(PARTS, sample.spans, strict=True) if span[0] >= 0 and part in wanted}
    if not spans:
        return {}
    for part, (offset, size) in spans.items():
        if offset + size > sample.file.size:
            raise BadRecord("cut off", sample.key, f"the shard ends inside its {part}")
        if size > MAX_PART_BYTES:
            raise BadRecord(
                "too many bytes",
                sample.key,
                f"its {part} has {size:,} bytes, more than the limit of {MAX_PART_BYTES:,}",
            )
    start = min(offset for offset, _ in spans.values())
    stop = max(offset + size for offset, size in spans.values())
    if stop - start <= sum(size for _, size in spans.values()) + _MAX_GAP:
        content = read_range(sample.file, start, stop)
        parts = {part: content[offset - start : offset - start + size] for part, (offset, size) in spans.items()}
    else:
        parts = {part: read_range(sample.file, offset, offset + size) for part, (offset, size) in spans.items()}
    for part, (_, size) in spans.items():
        if len(parts[part]) != size:
            raise BadRecord("cut off", sample.key, f"the shard ends inside its {part}")
    return parts


def _parse(text: bytes, key: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except UnicodeDecodeError as error:
        raise BadRecord("text not UTF-8", key, f"its .json is not UTF-8 ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise BadRecord("fields not readable", key, f"its .json cannot be read ({error})") from error
    if not isinstance(fields, dict):
        raise BadRecord("fields not readable", key, f"its .json must be an object, found {type(fields).__name__}")
    return fields

"""Copies of, or links to, the classified images, in one folder per class."""

from __future__ import annotations

import collections
import errno
import hashlib
import itertools
import logging
import os
import pathlib
import shutil
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from adapt.photos.folders import readable
from adapt.photos.sorting_result import SortingResult
from foundation.files.json_lines import read_json_lines, write_json_lines

logger = logging.getLogger(__name__)

CLASSES_FOLDER, FAR_FOLDER = "classes", "far"
COPY, LINK = "copy", "link"
Placement = Literal["copy", "link"]

_PARTIAL_FOLDER = ".partial-copies"
_LONGEST = 200  # bytes of a name without the hash that tells it from others
_SAME_TIME = 2.0  # seconds; file systems such as FAT round times
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Places(NamedTuple):
    """The folder of the classes, the folder for far images, and the file that lists what was placed there."""

    classes: str = CLASSES_FOLDER
    far: str = FAR_FOLDER
    record: str = "sorted_files.jsonl"


DEFAULT_PLACES = Places()


class PlacedFile(NamedTuple):
    """A line of the record: a file in the output folder, the image that it is of, and that image's state."""

    file: str
    source: str
    kind: Placement
    size: int
    mtime: float

    def is_at(self, path: str) -> bool:
        """Return whether `path` is this copy or link, unchanged."""
        if self.kind == LINK:
            return os.path.islink(path) and readable(os.readlink(path)) == self.source
        if os.path.islink(path) or not os.path.isfile(path):
            return False
        found = os.stat(path)
        return found.st_size == self.size and abs(found.st_mtime - self.mtime) <= _SAME_TIME


class SortedFiles(NamedTuple):
    """The numbers of files that were placed, that were already in place, and that were removed from other classes.

    `changed` are files of an earlier run that somebody has changed since, and `blocked` images whose names in the
    output folder belong to other files. Both are left alone.
    """

    placed: int
    kept: int
    removed: int
    changed: list[str]
    blocked: list[str]


def sort_into_folders(
    result: SortingResult,
    out: pathlib.Path,
    *,
    placement: Placement,
    progress: Callable[[str, int, int], None],
    places: Places = DEFAULT_PLACES,
) -> SortedFiles:
    """Copy the query images of a result to `out/classes/CLASS`, or link to them there, and return what was done.

    Images that are far from every support image are placed in `out/far/CLASS` instead; `places` names other folders. A
    name that several images have gets a hash of the path in the query folder. `out/sorted_files.jsonl` lists the files,
    before they are written: after an interruption, the next run continues. If the prediction of an image has changed,
    its file is moved. No file is overwritten or removed that this function has not placed, or that has changed since.

    Raises `OSError` where an image cannot be read or a file cannot be written.
    """
    previous = _read_record(out, places)
    shutil.rmtree(out / _PARTIAL_FOLDER, ignore_errors=True)
    wanted, blocked = {}, []
    for source, names in _plan(result, places):
        state = os.stat(source)
        choices = [PlacedFile(name, readable(source), placement, state.st_size, state.st_mtime) for name in names]
        file = next((each for each in choices if _is_free(each, out, previous)), None)
        if file is None:
            blocked.append(names[-1])
        else:
            wanted[file.file] = file, source
    files = [file for file, _ in wanted.values()]
    _write_record(out / places.record, [*itertools.chain(*previous.values()), *files])
    removed, changed = _remove(out, {name: known for name, known in previous.items() if name not in wanted})
    for folder in _class_folders(result):
        (out / places.classes / folder).mkdir(parents=True, exist_ok=True)
    placed = kept = 0
    for number, (file, source) in enumerate(wanted.values(), 1):
        path = os.path.join(out, file.file)
        own = [known for known in previous.get(file.file, [file]) if known.is_at(path)]
        if os.path.lexists(path) and not own:
            changed.append(file.file)
        elif file.is_at(path) and file.source in {known.source for known in own}:
            kept += 1
        else:
            if os.path.lexists(path):
                os.unlink(path)
            _place(source, path, placement, out / _PARTIAL_FOLDER)
            placed += 1
        progress(placement, number, len(wanted))
    shutil.rmtree(out / _PARTIAL_FOLDER, ignore_errors=True)
    _write_record(out / places.record, files)
    return SortedFiles(placed, kept, removed, changed, blocked)


def report_sorted(sorted_files: SortedFiles, out: pathlib.Path) -> None:
    """Log what `sort_into_folders` has done."""
    placed, kept, removed, changed, blocked = sorted_files
    logger.info(
        f"{placed + kept:,} images in {out / CLASSES_FOLDER} and {out / FAR_FOLDER}: {placed:,} placed now, {kept:,} "
        f"already there; {removed:,} removed from other classes"
    )
    for files, problem in (
        (changed, "files there were changed since an earlier run and are left alone"),
        (blocked, "images are not sorted, because other files there have their names"),
    ):
        if files:
            logger.warning(f"{len(files):,} {problem}; the first is {out / files[0]}")


def distinct_file_names(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield two file names for each path: the last part of the path if no other path has it, and one with a hash.

    If several paths have the last part, also in another case or Unicode form, both names have the hash. It is one of
    the whole path, so that a name does not depend on the other paths.
    """
    names = [readable(path.rpartition("/")[2]) for path in paths]
    counts = collections.Counter(map(_folded, names))
    for path, name in zip(paths, names, strict=True):
        stem, extension = os.path.splitext(name)
        stem = os.fsencode(stem)[:_LONGEST].decode("utf-8", "ignore")
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
        hashed = f"{stem}-{digest}{extension[:20]}"
        unique = counts[_folded(name)] == 1 and len(os.fsencode(name)) <= _LONGEST and name not in (".", "..")
        yield name if unique else hashed, hashed


def _folded(name: str) -> str:
    """Return what file systems without case or with one Unicode form take for the same name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _class_folders(result: SortingResult) -> list[str]:
    return [name for name, _ in distinct_file_names(result.class_names)]


def _plan(result: SortingResult, places: Places) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the path of each image and the names in the output folder that it may have, the preferred one first."""
    folders, root = _class_folders(result), os.path.abspath(result.query.root)
    names = distinct_file_names(result.query.paths)
    for path, label, far, own in zip(result.query.paths, result.predicted, result.far, names, strict=True):
        folder = f"{places.far if far else places.classes}/{folders[label]}"
        yield os.path.join(root, path), tuple(f"{folder}/{name}" for name in dict.fromkeys(own))


def _is_free(file: PlacedFile, out: pathlib.Path, previous: Container[str]) -> bool:
    """Return whether a file may be placed: nothing is there, or a file of an earlier run."""
    path = os.path.join(out, file.file)
    return file.file in previous or not os.path.lexists(path) or file.is_at(path)


def _remove(out: pathlib.Path, files: Mapping[str, Sequence[PlacedFile]]) -> tuple[int, list[str]]:
    """Remove files of an earlier run; return their number, and those that have changed and are left alone."""
    removed, changed = 0, []
    for name, known in files.items():
        path = os.path.join(out, name)
        if any(file.is_at(path) for file in known):
            os.unlink(path)
            removed += 1
            with suppress(OSError):  # not empty
                os.rmdir(os.path.dirname(path))
        elif os.path.lexists(path):
            changed.append(name)
    return removed, changed


def _place(source: str, path: str, placement: Placement, partial: pathlib.Path) -> None:
    """Copy a file or link to it; an existing `path` raises `FileExistsError`, and no part of a copy is ever there."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if placement == LINK:
        os.symlink(source, path)
        return
    partial.mkdir(exist_ok=True)
    copy = os.path.join(partial, os.path.basename(path))
    shutil.copy2(source, copy)
    try:
        os.link(copy, path)  # unlike a rename, it never replaces a file
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.rename(copy, path)
    else:
        os.unlink(copy)


def _read_record(out: pathlib.Path, places: Places) -> dict[str, list[PlacedFile]]:
    """Return the files of earlier runs; after an interruption, a file may be any of several copies or links."""
    found, path = collections.defaultdict(list), out / places.record
    for row in read_json_lines(path, appended=False):
        parts = str(row.get("file")).split("/")
        if set(row) != set(PlacedFile._fields) or len(parts) != 3 or ".." in parts:
            raise ValueError(f"{path} is damaged or was changed. Remove it: files that are in place are recognised.")
        if parts[0] in (places.classes, places.far):
            found[row["file"]].append(PlacedFile(**row))
    return dict(found)


def _write_record(path: pathlib.Path, files: Iterable[PlacedFile]) -> None:
    write_json_lines(path, (file._asdict() for file in files))

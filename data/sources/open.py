"""Open image-text sources by name."""

from __future__ import annotations

import bisect
import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

from data.embedded.sets import embedded_names, embedded_shard, is_embedded
from data.io.fingerprint import fingerprint
from data.io.storage import File, filesystem, find_files, is_remote
from data.sources.array_records import ArrayRecords
from data.sources.base import ContentDigest, Record, Source
from data.sources.coop import PREFIX as COOP_PREFIX
from data.sources.coop import CoopSplit
from data.sources.fgvc_aircraft import PREFIX as AIRCRAFT_PREFIX
from data.sources.fgvc_aircraft import FgvcAircraft
from data.sources.image_folders import ClassFolders
from data.sources.split_folders import TrainingFolder, class_pattern, training_source
from data.sources.tables.caption_table import SUFFIXES as TABLE_SUFFIXES
from data.sources.tables.caption_table import CaptionTable, log_rows
from data.sources.tar_shards import TarShards
from data.sources.tfds import PREFIX as TFDS_PREFIX
from data.sources.tfds import TfdsSource
from foundation.suggestions import did_you_mean, nearest_path

logger = logging.getLogger(__name__)

TEXT_KEYS = ("texts", "captions", "caption", "text", "txt", "title")
IMAGE_KEYS = ("image", "image_path", "filepath", "path", "file", "url", "image/encoded", "jpg")


class SampleLocation(NamedTuple):
    """The source of a sample, by number, and its index there."""

    source: int
    index: int


class ConcatenatedSource:
    """A `Source` of several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = tuple(sources)
        self._ends: list[int] = []
        for source in self.sources:
            self._ends.append(len(source) + (self._ends[-1] if self._ends else 0))
        self.fingerprint = fingerprint(*(source.fingerprint for source in self.sources))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        source, inner = self.locate(index)
        return self.sources[source][inner]

    def texts(self, index: int) -> tuple[str, ...]:
        """Return the texts of a sample."""
        source, inner = self.locate(index)
        return self.sources[source].texts(inner)

    def content_fingerprint(self) -> str | None:
        """Return the hash of the sources' content fingerprints, None if one of them is None."""
        fingerprints = [source.content_fingerprint() for source in self.sources]
        return None if None in fingerprints else fingerprint(*fingerprints)

    def content_digests(self) -> list[ContentDigest]:
        """Return the digests of all sources."""
        return [digest for source in self.sources for digest in source.content_digests()]

    def key(self, index: int) -> str:
        """Return the key of a sample."""
        source, inner = self.locate(index)
        return self.sources[source].key(inner)

    def locate(self, index: int) -> SampleLocation:
        """Return the source of a sample and its index there."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        source = bisect.bisect_right(self._ends, index)
        return SampleLocation(source, index - (self._ends[source - 1] if source else 0))


def open_source(
    name: str,
    data_dir: str | os.PathLike,
    *,
    text_keys: tuple[str, ...] = TEXT_KEYS,
    image_keys: tuple[str, ...] = IMAGE_KEYS,
    other_names: Sequence[str] = (),
) -> Source:
    """Open a source; its name determines its kind.

    - `emoji:ARTIST`, `icons:SPLIT`, `photos:DATASET:SPLIT`: an embedded dataset, written to `data_dir` on first use
    - `tfds:NAME:SPLIT`: a TFDS dataset prepared in `data_dir`
    - `coop:SPLIT_JSON:IMAGES_FOLDER:SPLIT`: a split of a list published by CoOp
    - `aircraft:FOLDER:SPLIT`: a split of FGVC Aircraft's archive
    - a path, a pattern with `*` or `{000..099}`, or a URL that fsspec opens: `.tar` shards, `.csv`, `.tsv`, `.jsonl` or
      `.json` tables, `.array_record*` files, or a folder with shards or with one folder per class, also in its training
      split or in its only folder (`data.sources.split_folders`)
    - `FOLDER/*`: all folders in a folder are classes; `FOLDER/*/train`: so are they, with images of one split in each

    Indexes are stored in `data_dir` if the folder of the data is read-only. Raises `FileNotFoundError` or `ValueError`
    if nothing is found, or if it is none of these; the error also lists `other_names` that the caller accepts.
    """
    if is_embedded(name):
        shard = embedded_shard(name, data_dir)
        return TarShards(find_files(os.fspath(shard)), cache_dir=data_dir, text_keys=text_keys)
    if name.startswith(TFDS_PREFIX):
        return TfdsSource(name.removeprefix(TFDS_PREFIX), data_dir=data_dir, text_keys=text_keys)
    if name.startswith(COOP_PREFIX):
        return CoopSplit(name.removeprefix(COOP_PREFIX))
    if name.startswith(AIRCRAFT_PREFIX):
        return FgvcAircraft(name.removeprefix(AIRCRAFT_PREFIX))
    if is_folder(name) or class_pattern(os.path.expanduser(name)):
        folder = training_source(os.path.expanduser(name))
        folder.log()
        if not folder.path.endswith(".tar"):
            return _open_class_folders(folder)
        name = folder.path
    files = _find(name, other_names)
    kinds = {_kind(file) for file in files}
    if kinds == {"shard"}:
        return TarShards(files, cache_dir=data_dir, text_keys=text_keys)
    if kinds == {"array record"}:
        return ArrayRecords(files, image_keys=image_keys, text_keys=text_keys)
    if kinds == {"table"}:
        tables = [CaptionTable(file, cache_dir=data_dir, image_keys=image_keys, text_keys=text_keys) for file in files]
        log_rows(tables)
        return tables[0] if len(tables) == 1 else ConcatenatedSource(tables)
    other = next((file.path for file in files if _kind(file) == "other"), None)
    raise ValueError(
        f"{name!r} matches {other or 'files of several kinds'}. A source is .tar shards, .csv, .tsv, .jsonl or .json "
        "tables, .array_record files, or a folder of class folders."
    )


def _open_class_folders(folder: TrainingFolder) -> ClassFolders:
    source = ClassFolders(folder.path, folder.split)
    if len(source.class_names) == 1:
        logger.warning(
            f"{folder.path} has images in one folder only, so all {len(source)} have the text {source.texts(0)[0]!r}"
        )
    return source


def _find(name: str, other_names: Sequence[str]) -> list[File]:
    try:
        return find_files(name)
    except FileNotFoundError as error:
        names = [*known_names(), *other_names]
        hint = did_you_mean(name, names) or nearest_path(name)
        raise FileNotFoundError(f"{error}.{hint} Known names: {', '.join(names)}") from error


def _kind(file: File) -> str:
    name = file.name.partition("?")[0].lower()
    if ".array_record" in name:
        return "array record"
    if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        return "shard"  # compressed shards raise an error that explains why
    return "table" if name.endswith(TABLE_SUFFIXES) else "other"


def is_folder(name: str) -> bool:
    """Return whether a path, or a URL that ends in a slash, is a folder."""
    if is_remote(name):
        if not name.endswith("/"):
            return False
        system, path = filesystem(name)
        return bool(system.isdir(path))
    return os.path.isdir(os.path.expanduser(name))


def known_names() -> list[str]:
    """Return the names and forms of sources other than paths and patterns."""
    lists = [f"{COOP_PREFIX}SPLIT_JSON:IMAGES_FOLDER:SPLIT", f"{AIRCRAFT_PREFIX}FOLDER:SPLIT"]
    return [*embedded_names(), f"{TFDS_PREFIX}NAME:SPLIT", *lists]


def open_sources(
    names: Sequence[str],
    data_dir: str | os.PathLike,
    *,
    text_keys: tuple[str, ...] = TEXT_KEYS,
    image_keys: tuple[str, ...] = IMAGE_KEYS,
) -> ConcatenatedSource:
    """Open several sources as one."""
    return ConcatenatedSource(
        [open_source(name, data_dir, text_keys=text_keys, image_keys=image_keys) for name in names]
    )

"""Opens image-text sources by name."""

from __future__ import annotations

import bisect
import os
import pathlib
from collections.abc import Sequence

from data import emoji
from data.io.fingerprint import fingerprint
from data.io.storage import File, filesystem, find_files, is_remote
from data.sources.array_records import ArrayRecords
from data.sources.base import Record, Source
from data.sources.caption_tables import SUFFIXES as TABLE_SUFFIXES
from data.sources.caption_tables import CaptionTable
from data.sources.coop import PREFIX as COOP_PREFIX
from data.sources.coop import CoopSplit
from data.sources.fgvc_aircraft import PREFIX as AIRCRAFT_PREFIX
from data.sources.fgvc_aircraft import FgvcAircraft
from data.sources.image_folders import ClassFolders
from data.sources.tar_shards import TarShards
from data.sources.tfds import PREFIX as TFDS_PREFIX
from data.sources.tfds import TfdsSource

EMOJI_PREFIX = "emoji:"
TEXT_KEYS = ("texts", "captions", "caption", "text", "txt", "title")
IMAGE_KEYS = ("image", "image_path", "filepath", "path", "file", "url", "image/encoded", "jpg")


class ConcatenatedSource:
    """Several sources as one, one after the other."""

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
        """Returns the texts of a sample."""
        source, inner = self.locate(index)
        return self.sources[source].texts(inner)

    def content_fingerprint(self) -> str | None:
        """Returns a hash that changes when a source may have, None where one cannot tell."""
        found = [source.content_fingerprint() for source in self.sources]
        return None if None in found else fingerprint(*found)

    def key(self, index: int) -> str:
        """Returns the name of a sample."""
        source, inner = self.locate(index)
        return self.sources[source].key(inner)

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the number of the source that a sample is in, and its place there."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        source = bisect.bisect_right(self._ends, index)
        return source, index - (self._ends[source - 1] if source else 0)


def open_source(
    name: str,
    data_dir: str | os.PathLike,
    *,
    text_keys: tuple[str, ...] = TEXT_KEYS,
    image_keys: tuple[str, ...] = IMAGE_KEYS,
) -> Source:
    """Opens a source; what it is follows from its name.

    `emoji:ARTIST` is the embedded set (written to `data_dir` at first use), `tfds:NAME:SPLIT` a prepared data set in
    `data_dir`, `coop:SPLIT_JSON:IMAGES_FOLDER:SPLIT` a split of a list such as CoOp publishes, and
    `aircraft:FOLDER:SPLIT` one of FGVC Aircraft's archive. Paths, patterns with `*` or `{000..099}`, and URLs that
    fsspec opens: `….tar` are shards, `….csv`, `….tsv` and `….jsonl` tables, `….array_record*` ArrayRecord files, and a
    folder holds one folder a class. Indexes of what cannot be written to lie in `data_dir`.

    Raises `FileNotFoundError` or `ValueError` where nothing is found, and for what is none of these.
    """
    if name.startswith(EMOJI_PREFIX):
        artist = name.removeprefix(EMOJI_PREFIX)
        if artist not in emoji.ARTISTS:
            raise ValueError(f"unknown emoji artist {artist!r}; known: {', '.join(emoji.ARTISTS)}")
        path = emoji.write_shards(pathlib.Path(data_dir) / "emoji")[artist]
        return TarShards(find_files(os.fspath(path)), cache_dir=data_dir, text_keys=text_keys)
    if name.startswith(TFDS_PREFIX):
        return TfdsSource(name.removeprefix(TFDS_PREFIX), data_dir=data_dir, text_keys=text_keys)
    if name.startswith(COOP_PREFIX):
        return CoopSplit(name.removeprefix(COOP_PREFIX))
    if name.startswith(AIRCRAFT_PREFIX):
        return FgvcAircraft(name.removeprefix(AIRCRAFT_PREFIX))
    if is_folder(name):
        return ClassFolders(os.path.expanduser(name))
    files = _find(name)
    names = {_kind(file) for file in files}
    if names == {"shard"}:
        return TarShards(files, cache_dir=data_dir, text_keys=text_keys)
    if names == {"array record"}:
        return ArrayRecords(files, image_keys=image_keys, text_keys=text_keys)
    if names == {"table"}:
        tables = [CaptionTable(file, cache_dir=data_dir, image_keys=image_keys, text_keys=text_keys) for file in files]
        return tables[0] if len(tables) == 1 else ConcatenatedSource(tables)
    other = next((file.path for file in files if _kind(file) == "other"), None)
    raise ValueError(
        f"{name!r} matches {other or 'files of several kinds'}; a source is .tar shards, .csv, .tsv, .jsonl, "
        ".array_record files, or a folder of class folders"
    )


def _find(name: str) -> list[File]:
    try:
        return find_files(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; known names: {', '.join(known_names())}") from error


def _kind(file: File) -> str:
    name = file.name.partition("?")[0].lower()
    if ".array_record" in name:
        return "array record"
    if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        return "shard"  # of which a compressed one is refused with its reason
    return "table" if name.endswith(TABLE_SUFFIXES) else "other"


def is_folder(name: str) -> bool:
    """Tells whether a path or URL is a folder; of URLs those that end in a slash."""
    if is_remote(name):
        if not name.endswith("/"):
            return False
        system, path = filesystem(name)
        return bool(system.isdir(path))
    return os.path.isdir(os.path.expanduser(name))


def known_names() -> list[str]:
    """Returns the names that stand for a source; any other is a path or pattern."""
    lists = [f"{COOP_PREFIX}SPLIT_JSON:IMAGES_FOLDER:SPLIT", f"{AIRCRAFT_PREFIX}FOLDER:SPLIT"]
    return [EMOJI_PREFIX + artist for artist in emoji.ARTISTS] + [f"{TFDS_PREFIX}NAME:SPLIT"] + lists


def open_sources(
    names: Sequence[str],
    data_dir: str | os.PathLike,
    *,
    text_keys: tuple[str, ...] = TEXT_KEYS,
    image_keys: tuple[str, ...] = IMAGE_KEYS,
) -> ConcatenatedSource:
    """Opens several sources as one."""
    return ConcatenatedSource(
        [open_source(name, data_dir, text_keys=text_keys, image_keys=image_keys) for name in names]
    )

"""Opens image-text sources by name."""

from __future__ import annotations

import bisect
import os
import pathlib
from collections.abc import Sequence

from data import emoji
from data.records import Record, Source
from data.shards import Shard, find_shards

EMOJI_PREFIX = "emoji:"


class Concatenation:
    """Several sources as one, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = list(sources)
        self._ends: list[int] = []
        for source in self._sources:
            self._ends.append(len(source) + (self._ends[-1] if self._ends else 0))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        which = bisect.bisect_right(self._ends, index)
        return self._sources[which][index - (self._ends[which - 1] if which else 0)]


def open_source(name: str, data_dir: str | os.PathLike) -> Source:
    """Opens `emoji:ARTIST`, the embedded set (written to `data_dir` at first use), or a path or pattern of shards."""
    if not name.startswith(EMOJI_PREFIX):
        try:
            return Concatenation([Shard(path) for path in find_shards(name)])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; known names: {', '.join(known_names())}") from error
    artist = name.removeprefix(EMOJI_PREFIX)
    if artist not in emoji.ARTISTS:
        raise ValueError(f"unknown emoji artist {artist!r}; known: {', '.join(emoji.ARTISTS)}")
    return Shard(os.fspath(emoji.write_shards(pathlib.Path(data_dir) / "emoji")[artist]))


def known_names() -> list[str]:
    """Returns the names that stand for a source; any other is a path or pattern of shards."""
    return [EMOJI_PREFIX + artist for artist in emoji.ARTISTS]


def open_sources(names: Sequence[str], data_dir: str | os.PathLike) -> Source:
    """Opens several sources as one."""
    return Concatenation([open_source(name, data_dir) for name in names])

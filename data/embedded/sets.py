"""The datasets that come with the project, by name, and their shards in the data folder."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from data import emoji, icons, photos
from data.embedded.shards import Sample, write_shard
from foundation.suggestions import unknown_name


class EmbeddedSet(NamedTuple):
    """An embedded dataset: the name of its kind of parts, its parts, and the samples and class text of a part."""

    kind: str
    parts: Sequence[str]
    samples: Callable[[str], Iterable[Sample]]
    template: Callable[[str], str]


SETS = {
    "emoji": EmbeddedSet("emoji artist", emoji.ARTISTS, emoji.samples, lambda artist: emoji.TEMPLATE),
    "icons": EmbeddedSet("split of icons", icons.SPLITS, icons.samples, lambda split: icons.TEMPLATE),
    "photos": EmbeddedSet("split of photos", photos.SPLITS, photos.samples, photos.template),
}


def is_embedded(source: str) -> bool:
    """Return whether the name of a source is that of an embedded dataset, `SET:PART`."""
    name, colon, _ = source.partition(":")
    return bool(colon) and name in SETS


def embedded_names() -> list[str]:
    """Return the names of all parts, `SET:PART`."""
    return [f"{name}:{part}" for name, dataset in SETS.items() for part in dataset.parts]


def embedded_shard(source: str, data_dir: str | os.PathLike) -> pathlib.Path:
    """Return the shard of `SET:PART` in `data_dir`; it is written on first use.

    A sample is `KEY.png` and `KEY.json`. The JSON has `label`, `class` and, except for photos, `texts`. Raises
    `ValueError` for an unknown part.
    """
    name, part, dataset = _find_set(source)
    path = pathlib.Path(data_dir) / name / f"{name}-{part.replace(':', '-')}-00000.tar"
    if not path.exists():
        write_shard(path, dataset.samples(part))
    return path


def embedded_template(source: str) -> str:
    """Return the text of a class of `SET:PART`, with `{}` for its name. Raises `ValueError` for an unknown part."""
    _, part, dataset = _find_set(source)
    return dataset.template(part)


def _find_set(source: str) -> tuple[str, str, EmbeddedSet]:
    name, _, part = source.partition(":")
    dataset = SETS[name]
    if part not in dataset.parts:
        raise ValueError(unknown_name(dataset.kind, part, dataset.parts))
    return name, part, dataset

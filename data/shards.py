"""Image-text samples in `.tar` shards, as webdataset and img2dataset write them, read by offset and never extracted."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import tarfile
from typing import NamedTuple

from data.records import Record

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class _Span(NamedTuple):
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class _Sample:
    name: str
    image: _Span
    json: _Span


class Shard:
    """The samples of one shard: a `Source`.

    Each sample is an image (`KEY.jpg`, `.jpeg`, `.png` or `.webp`) and `KEY.json` with `texts` (a list), or `caption`
    (a string), and optionally `label` and `class`. Raises `ValueError` for a shard that is cut off, is no tar file,
    lacks one half of a sample, or holds no sample.
    """

    def __init__(self, path: str):
        self.path = path
        self._samples = _index_shard(path)
        if not self._samples:
            raise ValueError(f"shard {path} holds no samples")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Record:
        sample = self._samples[index]
        key = f"{os.path.basename(self.path)}/{sample.name}"
        with open(self.path, "rb") as file:
            image = _read(file, sample.image, key)
            fields = _parse(_read(file, sample.json, key), key)
        return Record(
            key=key,
            image=image,
            texts=_texts(fields, key),
            label=fields.get("label"),
            class_name=fields.get("class"),
        )


def find_shards(pattern: str) -> list[str]:
    """Returns the sorted paths that a glob pattern matches; raises `FileNotFoundError` where there is none."""
    paths = sorted(glob.glob(os.path.expanduser(pattern)))
    if not paths:
        raise FileNotFoundError(f"no shard matches {pattern!r}")
    return paths


def _index_shard(path: str) -> list[_Sample]:
    members: dict[str, dict[str, _Span]] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isfile():
                    name, suffix = os.path.splitext(member.name)
                    members.setdefault(name, {})[suffix.lower()] = _Span(member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"shard {path} is cut off or is no tar file ({error}); write it again") from error
    samples = []
    for name, spans in members.items():
        image = next((spans[suffix] for suffix in IMAGE_SUFFIXES if suffix in spans), None)
        if image is None or ".json" not in spans:
            missing = "image" if image is None else ".json"
            raise ValueError(f"shard {path}: sample {name!r} has no {missing}; it holds {', '.join(sorted(spans))}")
        samples.append(_Sample(name, image, spans[".json"]))
    return samples


def _read(file: object, span: _Span, key: str) -> bytes:
    file.seek(span.offset)
    content = file.read(span.size)
    if len(content) != span.size:
        raise ValueError(f"{key}: the shard ends inside this sample; write the shard again")
    return content


def _parse(text: bytes, key: str) -> dict:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{key}: the .json of this sample cannot be read ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{key}: the .json of this sample is no object but {type(fields).__name__}")
    return fields


def _texts(fields: dict, key: str) -> tuple[str, ...]:
    texts = fields.get("texts", fields.get("caption", ()))
    texts = (texts,) if isinstance(texts, str) else tuple(texts)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key}: texts must be strings, found {texts!r}")
    return texts

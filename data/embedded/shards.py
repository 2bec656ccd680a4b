"""Read the contact sheets of the embedded datasets, and write their samples as shards."""

from __future__ import annotations

import io
import json
import os
import pathlib
import tarfile
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image

from foundation.files.atomic import atomic_file


class Sample(NamedTuple):
    """A sample of an embedded dataset: its `number` is the key in a shard, `record` the content of the JSON file."""

    number: int
    image: Image.Image
    record: dict


class ContactSheet:
    """An image of cells of equal size, `(width, height)` in pixels, in rows of `columns` cells."""

    def __init__(self, path: pathlib.Path, *, cell: tuple[int, int], columns: int, mode: str = "RGB"):
        self._sheet = Image.open(path).convert(mode)
        self._cell = cell
        self._columns = columns

    def image(self, number: int, size: tuple[int, int] | None = None) -> Image.Image:
        """Return the image of a cell; it fills the cell, or `size` in its upper left corner."""
        width, height = self._cell
        left, top = number % self._columns * width, number // self._columns * height
        width, height = size or self._cell
        return self._sheet.crop((left, top, left + width, top + height))


def write_shard(path: str | os.PathLike, samples: Iterable[Sample]) -> None:
    """Write samples as `KEY.png` and `KEY.json` to a `.tar` shard, which appears when it is complete."""
    with atomic_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as shard:
        for sample in samples:
            image = io.BytesIO()
            sample.image.save(image, "png")
            text = json.dumps(sample.record, ensure_ascii=False, sort_keys=True).encode()
            for suffix, content in (("png", image.getvalue()), ("json", text)):
                member = tarfile.TarInfo(f"{sample.number:07d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))

"""Pack shards in img2dataset's layout into contact sheets; the inverse of `data.embedded.shards`."""

from __future__ import annotations

import io
import json
import pathlib
import tarfile
from collections.abc import Iterable, Iterator, Sequence

from PIL import Image

from data.embedded.shards import Sample


def read_shards(paths: Iterable[pathlib.Path], *, mode: str = "RGB") -> Iterator[Sample]:
    """Return the samples of shards in which each image is followed by its `.json`; `mode` is Pillow's."""
    for path in paths:
        with tarfile.open(path, "r:") as shard:
            members = [(member.name, shard.extractfile(member).read()) for member in shard]
        for (_, image), (name, text) in zip(members[::2], members[1::2], strict=True):
            if not name.endswith(".json"):
                raise ValueError(f"{path}: expected a .json after each image, found {name}")
            number = int(name.removesuffix(".json"))
            yield Sample(number, Image.open(io.BytesIO(image)).convert(mode), json.loads(text))


def make_sheet(images: Sequence[Image.Image], *, cell: tuple[int, int], columns: int) -> Image.Image:
    """Return a white sheet with each image in the upper left corner of its cell."""
    width, height = cell
    sheet = Image.new(images[0].mode, (columns * width, -(-len(images) // columns) * height), "white")
    for number, image in enumerate(images):
        sheet.paste(image, (number % columns * width, number // columns * height))
    return sheet


def write_list(path: pathlib.Path, rows: Iterable[dict]) -> None:
    """Write one compact JSON object per line."""
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")

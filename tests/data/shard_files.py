"""Write small shards for tests."""

import io
import json
import pathlib
import tarfile

import numpy as np
from PIL import Image


def png(seed: int, size: tuple[int, int] = (20, 16)) -> bytes:
    """Return a random PNG of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def write_tar(path: pathlib.Path, members: list[tuple[str, bytes]], *, kind: int = tarfile.PAX_FORMAT) -> pathlib.Path:
    """Write members of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as shard:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def write_shard(path: pathlib.Path, samples: list[tuple[str, bytes, dict]]) -> pathlib.Path:
    """Write samples of (key, encoded image, fields)."""
    return write_tar(path, members(samples))


def members(samples: list[tuple[str, bytes, dict]]) -> list[tuple[str, bytes]]:
    """Return the tar members of samples of (key, encoded image, fields)."""
    parts = [((f"{key}.png", image), (f"{key}.json", json.dumps(fields).encode())) for key, image, fields in samples]
    return [part for pair in parts for part in pair]


def labelled(count: int, classes: int = 3, size: tuple[int, int] = (20, 16)) -> list[tuple[str, bytes, dict]]:
    """Return samples whose labels cycle through the classes."""
    return [
        (f"{i:04d}", png(i, size), {"texts": [f"thing {i}"], "label": i % classes, "class": f"kind {i % classes}"})
        for i in range(count)
    ]

"""Pack shards of labelled photos into this folder: one contact sheet per dataset and a list of datasets.

    python -m data.photos.make_sheets --source=FOLDER_OF_DATASETS

The folder has a folder per dataset with shards of `train` and `test` in img2dataset's layout and an `info.json` with
the `classes`. ATTRIBUTION.md states the originals. Photos are resized to 64 px on the shorter side. A cell is a
multiple of WebP's blocks of 16 px, and the border of a photo fills it, so that neighbours do not show in each other.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import numpy as np
from PIL import Image

from data.embedded.packing import make_sheet, read_shards, write_list
from data.photos import COLUMNS, DATASETS, FOLDER

SHORTER_SIDE = 64
BLOCK = 16
QUALITY = 75
LICENCES = {"trashnet": "MIT", "clothing": "CC0-1.0", "signdigits": "Apache-2.0"}  # SPDX


def resized(image: Image.Image) -> Image.Image:
    """Return an image with a shorter side of 64 px."""
    scale = SHORTER_SIDE / min(image.size)
    return image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.LANCZOS)


def filled(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """Return an image enlarged to a cell by repeating its right and lower border."""
    margins = ((0, cell[1] - image.height), (0, cell[0] - image.width), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), margins, mode="edge"))


def pack(folder: pathlib.Path) -> dict:
    """Write the sheet of a dataset, and return its description: per photo its label, width and height."""
    name = folder.name
    description = {
        "name": name,
        "license": LICENCES[name],
        "classes": json.loads((folder / "info.json").read_text(encoding="utf-8"))["classes"],
    }
    images = []
    for split in ("train", "test"):
        samples = list(read_shards(sorted(folder.glob(f"{split}-*.tar"))))
        for sample in samples:
            if sample.record["class"] != description["classes"][sample.record["label"]]:
                raise ValueError(f"{name}: label {sample.record['label']} is not {sample.record['class']!r}")
        photos = [resized(sample.image) for sample in samples]
        description[split] = [[s.record["label"], *photo.size] for s, photo in zip(samples, photos, strict=True)]
        images += photos
    cell = tuple(-(-max(sides) // BLOCK) * BLOCK for sides in zip(*(image.size for image in images), strict=True))
    sheet = make_sheet([filled(image, cell) for image in images], cell=cell, columns=COLUMNS)
    sheet.save(FOLDER / f"{name}.webp", quality=QUALITY, method=6)
    return description | {"cell": cell}


def main() -> None:
    """Write the sheets and the list of datasets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True, help="folder with a folder per dataset")
    source = parser.parse_args().source
    write_list(FOLDER / "datasets.jsonl", [pack(source / name) for name in DATASETS])


if __name__ == "__main__":
    main()

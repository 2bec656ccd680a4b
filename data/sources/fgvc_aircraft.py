"""FGVC Aircraft as unpacked from its archive: images in `images/`, and lists of the variant of each image.

The lowest 20 pixels of every image are a banner with the photographer's name, which the authors of the archive advise
to remove. It is kept here: the results that CLIP, CoOp and their successors report are on whole images, and a source
returns files unchanged, while cropping would mean re-encoding every image.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from data.io.storage import read_file
from data.sources.split_lists import ImageList, ListedImage
from foundation.files.lines import split_lines

PREFIX = "aircraft:"
SPLITS = ("train", "val", "trainval", "test")
ARCHIVE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"


class AircraftName(NamedTuple):
    """The parts of a source name `FOLDER:SPLIT`."""

    folder: str
    split: str


class FgvcAircraft(ImageList):
    """A `Source` of one split, `FOLDER:SPLIT` with split `train`, `val`, `trainval` or `test`; 100 variants.

    `FOLDER` is `fgvc-aircraft-2013b/data` of the archive. Labels follow the order of `variants.txt`. Raises
    `FileNotFoundError` if a list does not exist, and `ValueError` for an invalid line.
    """

    def __init__(self, name: str):
        folder, split = parse(name)
        folder = os.path.expanduser(folder)
        class_names = _read_lines(folder, "variants.txt")
        labels = {variant: label for label, variant in enumerate(class_names)}
        images, list_name = [], f"images_variant_{split}.txt"
        for line in _read_lines(folder, list_name):
            image, _, variant = line.partition(" ")
            if variant not in labels:
                raise ValueError(
                    f"{folder}/{list_name}: {line!r} does not end in a variant of variants.txt. Unpack the archive "
                    "again."
                )
            images.append(ListedImage(f"images/{image}.jpg", labels[variant]))
        super().__init__(folder, images, class_names=class_names)


def parse(name: str) -> AircraftName:
    """Parse a source name without its prefix; raises `ValueError` for an invalid one."""
    folder, _, split = name.rpartition(":")
    if not folder or split not in SPLITS:
        raise ValueError(f"{PREFIX}{name} is not of the form {PREFIX}FOLDER:SPLIT with split {', '.join(SPLITS)}")
    return AircraftName(folder, split)


def _read_lines(folder: str, name: str) -> list[str]:
    try:
        text = read_file(f"{folder}/{name}").decode()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder}/{name} does not exist. Unpack {ARCHIVE} and give the path of its fgvc-aircraft-2013b/data."
        ) from error
    return [line.strip() for line in split_lines(text) if line.strip()]

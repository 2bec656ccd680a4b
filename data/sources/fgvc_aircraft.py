"""FGVC Aircraft as its archive lays it out: pictures in `images/`, and lists of the variant that each shows.

The lowest 20 pixels of every picture are a banner with the photographer's name, which the archive's authors say to
remove. It is left on: the numbers that CLIP, CoOp and their followers report are of whole pictures, and a source gives
files as they are, so to cut it off would be to encode each picture anew.
"""

from __future__ import annotations

import os

from data.io.storage import read_file
from data.sources.split_lists import ImageList, ListedImage

PREFIX = "aircraft:"
SPLITS = ("train", "val", "trainval", "test")
ARCHIVE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"


class FgvcAircraft(ImageList):
    """A split of the archive, `FOLDER:train`, `…:val`, `…:trainval` or `…:test`: a `Source` of its 100 variants.

    `FOLDER` is the archive's `fgvc-aircraft-2013b/data`. Classes are numbered in the order of its `variants.txt`.
    Raises `FileNotFoundError` where a list is not there, and `ValueError` for a line of another form.
    """

    def __init__(self, name: str):
        folder, split = parse(name)
        folder = os.path.expanduser(folder)
        class_names = _lines(folder, "variants.txt")
        labels = {variant: label for label, variant in enumerate(class_names)}
        pictures, list_name = [], f"images_variant_{split}.txt"
        for line in _lines(folder, list_name):
            picture, _, variant = line.partition(" ")
            if variant not in labels:
                raise ValueError(f"{folder}/{list_name}: {line!r} ends in no variant of variants.txt; unpack it anew")
            pictures.append(ListedImage(f"images/{picture}.jpg", labels[variant]))
        super().__init__(folder, pictures, class_names)


def parse(name: str) -> tuple[str, str]:
    """Returns folder and split of a name without its prefix; raises `ValueError` where it is not made so."""
    folder, _, split = name.rpartition(":")
    if not folder or split not in SPLITS:
        raise ValueError(
            f"{PREFIX}{name} names no folder and split; write {PREFIX}FOLDER:SPLIT with a SPLIT of {', '.join(SPLITS)}"
        )
    return folder, split


def _lines(folder: str, name: str) -> list[str]:
    try:
        text = read_file(f"{folder}/{name}").decode()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder}/{name} is not there; unpack {ARCHIVE} and name its fgvc-aircraft-2013b/data"
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]

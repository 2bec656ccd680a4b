"""The embedded photos: three labelled datasets of small photos for few-shot evaluation (see ATTRIBUTION.md).

They are stored as one contact sheet per dataset and one list of datasets, 1.7 MB in total. The shorter side of a photo
has 64 px.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from data.embedded.shards import ContactSheet, Sample
from foundation.files.json_lines import read_json_lines

FOLDER = pathlib.Path(__file__).parent
DATASETS = ("trashnet", "clothing", "signdigits")
SPLITS = tuple(f"{dataset}:{split}" for dataset in DATASETS for split in ("train", "test"))
COLUMNS = 24
TEMPLATES = {"trashnet": "a photo of {}."}  # materials: no article


def template(name: str) -> str:
    """Return the text of a class of `DATASET:SPLIT`, with `{}` for its name."""
    return TEMPLATES.get(name.partition(":")[0], "a photo of a {}.")


def samples(name: str) -> Iterator[Sample]:
    """Return the samples of `DATASET:SPLIT`.

    A record has `label`, `class`, `dataset` and `license` (SPDX).
    """
    dataset, split = name.split(":")
    [description] = [each for each in read_json_lines(FOLDER / "datasets.jsonl") if each["name"] == dataset]
    sheet = ContactSheet(FOLDER / f"{dataset}.webp", cell=tuple(description["cell"]), columns=COLUMNS)
    first = 0 if split == "train" else len(description["train"])
    for number, (label, width, height) in enumerate(description[split], first):
        record = {
            "label": label,
            "class": description["classes"][label],
            "dataset": dataset,
            "license": description["license"],
        }
        yield Sample(number, sheet.image(number, (width, height)), record)

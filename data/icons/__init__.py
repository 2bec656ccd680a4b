"""The embedded icons: 1,908 concepts, each drawn by 6 to 54 artists, 29,159 images of 32 px (see ATTRIBUTION.md).

They are stored as one contact sheet with eight grey levels, a list of concepts and a list of icon sets, 3.0 MB in
total. 375 concepts are *novel* and eleven artists *unseen*: `train` has none of them. Together they give the splits:

| | seen artists | unseen artists |
|---|---|---|
| seen concepts | `train` | `seen_query` |
| novel concepts | `novel_support` | `novel_query` |
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from data.embedded.shards import ContactSheet, Sample
from foundation.files.json_lines import read_json_lines

FOLDER = pathlib.Path(__file__).parent
SPLITS = ("train", "seen_query", "novel_support", "novel_query")
CELL = (32, 32)  # pixels
COLUMNS = 64
TEMPLATE = "{}"  # of class texts: the name alone, as in the captions


def samples(split: str) -> Iterator[Sample]:
    """Return the samples of a split.

    A record has `texts` (the concept), `label` and `class` (the concept, numbered in alphabetical order), `artist`,
    `set` (of icons) and `license` (SPDX).
    """
    sets = {each["id"]: each for each in read_json_lines(FOLDER / "sets.jsonl")}
    sheet = ContactSheet(FOLDER / "icons.webp", cell=CELL, columns=COLUMNS, mode="L")
    number = -1
    for label, concept in enumerate(read_json_lines(FOLDER / "concepts.jsonl")):
        for name in concept["sets"].split():
            number += 1
            if split != split_of(novel=concept["novel"], unseen=sets[name]["unseen"]):
                continue
            record = {
                "texts": [concept["name"]],
                "label": label,
                "class": concept["name"],
                "artist": sets[name]["artist"],
                "set": name,
                "license": sets[name]["license"],
            }
            yield Sample(number, sheet.image(number), record)


def split_of(*, novel: bool, unseen: bool) -> str:
    """Return the split of the icons of a novel or seen concept by an unseen or seen artist."""
    if novel:
        return "novel_query" if unseen else "novel_support"
    return "seen_query" if unseen else "train"

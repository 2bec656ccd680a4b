"""The embedded image-text dataset: about 1,900 emoji concepts, each drawn by three artists (see ATTRIBUTION.md).

It is stored as one contact sheet per artist and one list of concepts, 3.2 MB in total.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from data.embedded.shards import ContactSheet, Sample
from foundation.files.json_lines import read_json_lines

FOLDER = pathlib.Path(__file__).parent
ARTISTS = ("noto", "twemoji", "fluent3d")
CELL = (64, 64)  # pixels
COLUMNS = 44
TEMPLATE = "{}"  # of class texts: the name alone, since captions are names and these are drawings


def samples(artist: str) -> Iterator[Sample]:
    """Return the samples of an artist.

    A record has `texts` (name first), `label` and `class` (the subgroup), `group`, `hexcode` and `artist`.
    """
    concepts = read_json_lines(FOLDER / "concepts.jsonl")
    class_names = sorted({concept["subgroup"] for concept in concepts})
    sheet = ContactSheet(FOLDER / f"{artist}.webp", cell=CELL, columns=COLUMNS)
    for number, concept in enumerate(each for each in concepts if artist in each["artists"]):
        record = {
            "texts": concept["texts"],
            "label": class_names.index(concept["subgroup"]),
            "class": concept["subgroup"],
            "group": concept["group"],
            "hexcode": concept["hexcode"],
            "artist": artist,
        }
        yield Sample(number, sheet.image(number), record)

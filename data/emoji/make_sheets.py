"""Pack emoji shards in img2dataset's layout into this folder: one contact sheet per artist and a list of concepts.

    python -m data.emoji.make_sheets --source=FOLDER_OF_SHARDS

Originals: npm emoji-datasource-google 16.0.0 (Noto), emoji-datasource-twitter 16.0.0 (Twemoji),
@lobehub/fluent-emoji-3d 1.1.0 (Fluent 3D) at 64 px with alpha flattened on white; names, groups and tags from
emoji-datasource 16.0.0 and emojibase-data 17.0.0.
"""

from __future__ import annotations

import argparse
import pathlib

from data.embedded.packing import make_sheet, read_shards, write_list
from data.emoji import ARTISTS, CELL, COLUMNS, FOLDER

QUALITY = 75


def main() -> None:
    """Write the sheets and the list of concepts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True, help="folder of the original shards")
    source = parser.parse_args().source
    artists = {
        artist: {sample.record["hexcode"]: sample for sample in read_shards([source / f"{artist}-00000.tar"])}
        for artist in ARTISTS
    }
    hexcodes = sorted(set().union(*artists.values()))
    concepts = []
    for hexcode in hexcodes:
        drawn_by = [artist for artist in ARTISTS if hexcode in artists[artist]]
        record = artists[drawn_by[0]][hexcode].record
        concept = {key: record[key] for key in ("hexcode", "group", "subgroup", "texts")}
        concepts.append(concept | {"artists": drawn_by})
    write_list(FOLDER / "concepts.jsonl", concepts)
    for artist, drawn in artists.items():
        images = [drawn[hexcode].image for hexcode in hexcodes if hexcode in drawn]
        make_sheet(images, cell=CELL, columns=COLUMNS).save(FOLDER / f"{artist}.webp", quality=QUALITY, method=6)


if __name__ == "__main__":
    main()

"""Pack emoji shards in img2dataset's layout into this folder: one contact sheet per artist and a list of concepts.

    python -m data.emoji.make_sheets --source=FOLDER_OF_SHARDS

Originals: npm emoji-datasource-google 16.0.0 (Noto), emoji-datasource-twitter 16.0.0 (Twemoji),
@lobehub/fluent-emoji-3d 1.1.0 (Fluent 3D) at 64 px with alpha flattened on white; names, groups and tags from
emoji-datasource 16.0.0 and emojibase-data 17.0.0.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import tarfile
from typing import NamedTuple

from PIL import Image

from data.emoji import ARTISTS, CELL, COLUMNS, FOLDER

QUALITY = 75


class Drawing(NamedTuple):
    """One artist's drawing of a concept."""

    record: dict
    image: Image.Image


def read_shard(path: pathlib.Path) -> dict[str, Drawing]:
    """Return the record and image of each hexcode in one artist's shard."""
    with tarfile.open(path, "r:") as shard:
        members = [(member.name, shard.extractfile(member).read()) for member in shard]
    records = {}
    for (_, image), (name, text) in zip(members[::2], members[1::2], strict=True):
        if not name.endswith(".json"):
            raise ValueError(f"{path}: expected a .json after each image, found {name}")
        record = json.loads(text)
        records[record["hexcode"]] = Drawing(record, Image.open(io.BytesIO(image)).convert("RGB"))
    return records


def main() -> None:
    """Write the sheets and the list of concepts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True, help="folder of the original shards")
    source = parser.parse_args().source
    artists = {artist: read_shard(source / f"{artist}-00000.tar") for artist in ARTISTS}
    hexcodes = sorted(set().union(*artists.values()))
    with open(FOLDER / "concepts.jsonl", "w", encoding="utf-8") as concepts:
        for hexcode in hexcodes:
            drawn_by = [artist for artist in ARTISTS if hexcode in artists[artist]]
            record = artists[drawn_by[0]][hexcode].record
            concept = {key: record[key] for key in ("hexcode", "group", "subgroup", "texts")} | {"artists": drawn_by}
            concepts.write(json.dumps(concept, ensure_ascii=False, separators=(",", ":")) + "\n")
    for artist, records in artists.items():
        drawn = [hexcode for hexcode in hexcodes if hexcode in records]
        rows = -(-len(drawn) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * CELL, rows * CELL), "white")
        for index, hexcode in enumerate(drawn):
            sheet.paste(records[hexcode].image, (index % COLUMNS * CELL, index // COLUMNS * CELL))
        sheet.save(FOLDER / f"{artist}.webp", quality=QUALITY, method=6)


if __name__ == "__main__":
    main()

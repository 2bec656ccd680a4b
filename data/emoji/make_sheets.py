"""Packs the emoji set from img2dataset-style shards into this folder: a picture sheet an artist, a list of concepts.

    python -m data.emoji.make_sheets --source=FOLDER_WITH_THE_ORIGINAL_SHARDS

The originals: npm emoji-datasource-google 16.0.0 (Noto), emoji-datasource-twitter 16.0.0 (Twemoji),
@lobehub/fluent-emoji-3d 1.1.0 (Fluent 3D) at 64 px with alpha flattened on white; names, groups and tags from
emoji-datasource 16.0.0 and emojibase-data 17.0.0.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import tarfile

from PIL import Image

from data.emoji import ARTISTS, CELL, COLUMNS, FOLDER

QUALITY = 75


def read_shard(path: pathlib.Path) -> dict[str, tuple[dict, Image.Image]]:
    """Returns hexcode → (record, picture) of one artist's shard."""
    with tarfile.open(path, "r:") as shard:
        members = [(member.name, shard.extractfile(member).read()) for member in shard]
    records = {}
    for (_, picture), (name, text) in zip(members[::2], members[1::2], strict=True):
        if not name.endswith(".json"):
            raise ValueError(f"{path}: expected a .json after each picture, found {name}")
        record = json.loads(text)
        records[record["hexcode"]] = record, Image.open(io.BytesIO(picture)).convert("RGB")
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    source = parser.parse_args().source
    artists = {artist: read_shard(source / f"{artist}-00000.tar") for artist in ARTISTS}
    hexcodes = sorted(set().union(*artists.values()))
    with open(FOLDER / "concepts.jsonl", "w", encoding="utf-8") as concepts:
        for hexcode in hexcodes:
            drawn_by = [artist for artist in ARTISTS if hexcode in artists[artist]]
            record = artists[drawn_by[0]][hexcode][0]
            concept = {key: record[key] for key in ("hexcode", "group", "subgroup", "texts")} | {"artists": drawn_by}
            concepts.write(json.dumps(concept, ensure_ascii=False, separators=(",", ":")) + "\n")
    for artist, records in artists.items():
        drawn = [hexcode for hexcode in hexcodes if hexcode in records]
        rows = -(-len(drawn) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * CELL, rows * CELL), "white")
        for index, hexcode in enumerate(drawn):
            sheet.paste(records[hexcode][1], (index % COLUMNS * CELL, index // COLUMNS * CELL))
        sheet.save(FOLDER / f"{artist}.webp", quality=QUALITY, method=6)


if __name__ == "__main__":
    main()

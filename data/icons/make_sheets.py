"""Pack icon shards in img2dataset's layout into this folder: a contact sheet, and lists of concepts, sets and authors.

    python -m data.icons.make_sheets --source=FOLDER_OF_SHARDS

The folder has the shards of the four splits, with the concept (`class`), `set` and `label` of each sample, and an
`info.json` with the author, licence and version of each set (`sources`) and the `unseen_artists`. Originals: npm
@iconify/json 2.2.535, one icon per author and concept, drawn at 32 px in black on white.

Colour becomes grey, and grey is rounded to eight levels. Sorted by concept, the lossless sheet has 2.61 MB; sorted by
set, it has 2.62 MB.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
from collections.abc import Iterable

from PIL import Image

from data.embedded.packing import make_sheet, read_shards, write_list
from data.embedded.shards import Sample
from data.icons import CELL, COLUMNS, FOLDER, SPLITS, split_of

LEVELS = 8
ATTRIBUTION = """\
# Origin of the icons

The images come from the npm package [@iconify/json](https://www.npmjs.com/package/@iconify/json) 2.2.535. They were \
drawn at 32 px in black on white, converted to grey, rounded to eight grey levels and packed into one WebP sheet; of \
each author, there is one icon per concept, without brand names. A concept is the name of an icon without words of \
style and size.

Each icon has the licence of its set; [LICENCES.md](LICENCES.md) has the texts. Unseen artists are those whose icons \
are not part of the training split.

| id | icon set | version | © author | licence | images | unseen |
|---|---|---|---|---|---|---|
"""
COPIES = {"famicons"}  # 291 of its 293 icons equal one of the same concept by a seen artist, so it is not unseen


def quantized(image: Image.Image) -> Image.Image:
    """Return a grey image rounded to `LEVELS` grey levels, black and white among them."""
    return image.point([round(round(value * (LEVELS - 1) / 255) * 255 / (LEVELS - 1)) for value in range(256)])


def describe_sets(info: dict) -> dict[str, dict]:
    """Return the name, author, licence and version of each icon set."""
    return {
        key: {
            "id": key,
            "name": source["name"],
            "artist": source["author"]["name"],
            "url": source["author"].get("url"),
            "license": source["license"]["spdx"],
            "license_url": source["license"].get("url"),
            "version": source["version"],
            "unseen": source["author"]["name"] in info["unseen_artists"] and key not in COPIES,
        }
        for key, source in sorted(info["sources"].items())
    }


def list_concepts(samples: Iterable[Sample]) -> list[dict]:
    """Return the concepts of samples that are sorted by label, each with the sets that draw it, in order."""
    concepts: list[dict] = []
    for sample in samples:
        record = sample.record
        if record["label"] == len(concepts):
            concepts.append({"name": record["class"], "novel": record["split"].startswith("novel"), "sets": []})
        if record["label"] != len(concepts) - 1 or record["texts"] != [concepts[-1]["name"]]:
            raise ValueError(f"sample {sample.number}: expected a label of {len(concepts)} or less, and one text")
        concepts[-1]["sets"].append(record["set"])
    return concepts


def attribution(sets: Iterable[dict], concepts: list[dict]) -> str:
    """Return the list of icon sets with their authors and licences."""
    drawn = collections.Counter(name for concept in concepts for name in concept["sets"].split())
    rows = []
    for each in sets:
        author = f"[{each['artist']}]({each['url']})" if each["url"] else each["artist"]
        licence = f"[{each['license']}]({each['license_url']})" if each["license_url"] else each["license"]
        unseen = "yes" if each["unseen"] else ""
        version = each["version"] or "–"
        cells = (each["id"], each["name"], version, author, licence, str(drawn[each["id"]]), unseen)
        rows.append(f"| {' | '.join(cells)} |\n")
    return ATTRIBUTION + "".join(rows)


def main() -> None:
    """Write the sheet and the lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True, help="folder of the original shards")
    source = parser.parse_args().source
    shards = [path for split in SPLITS for path in sorted(source.glob(f"{split}-*.tar"))]
    samples = sorted(read_shards(shards, mode="L"), key=lambda each: (each.record["label"], each.record["set"]))
    sets = describe_sets(json.loads((source / "info.json").read_text(encoding="utf-8")))
    concepts = list_concepts(samples)
    for sample in samples:
        record = sample.record
        split = split_of(novel=concepts[record["label"]]["novel"], unseen=sets[record["set"]]["unseen"])
        if split != record["split"] and record["set"] not in COPIES:
            raise ValueError(f"sample {sample.number} is in {record['split']}; its concept and artist are of {split}")
    concepts = [concept | {"sets": " ".join(concept["sets"])} for concept in concepts]
    write_list(FOLDER / "sets.jsonl", sets.values())
    write_list(FOLDER / "concepts.jsonl", concepts)
    (FOLDER / "ATTRIBUTION.md").write_text(attribution(sets.values(), concepts), encoding="utf-8")
    sheet = make_sheet([quantized(sample.image) for sample in samples], cell=CELL, columns=COLUMNS)
    sheet.save(FOLDER / "icons.webp", lossless=True, quality=100, method=4)


if __name__ == "__main__":
    main()

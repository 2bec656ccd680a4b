"""The embedded image-text dataset: about 1,900 emoji concepts, each drawn by three artists (see ATTRIBUTION.md).

It is stored as one contact sheet per artist and one list of concepts, 3.2 MB in total. `write_shards` converts it to
`.tar` shards like those of any other run.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import tarfile

from foundation.files.atomic import atomic_file
from foundation.files.json_lines import read_json_lines

FOLDER = pathlib.Path(__file__).parent
ARTISTS = ("noto", "twemoji", "fluent3d")
CELL = 64  # pixels
COLUMNS = 44


def write_shards(folder: str | os.PathLike) -> dict[str, pathlib.Path]:
    """Write one shard per artist to `folder`, unless it exists, and return a dict from artist to path.

    A sample is `KEY.png` and `KEY.json`. The JSON has `texts` (name first), `label` and `class` (the subgroup),
    `group`, `hexcode` and `artist`.
    """
    folder = pathlib.Path(folder)
    paths = {artist: folder / f"emoji-{artist}-00000.tar" for artist in ARTISTS}
    concepts = read_json_lines(FOLDER / "concepts.jsonl")
    class_names = sorted({concept["subgroup"] for concept in concepts})
    for artist, path in paths.items():
        if not path.exists():
            drawn = [concept for concept in concepts if artist in concept["artists"]]
            with atomic_file(path) as temporary:
                _write_shard(temporary, artist, concepts=drawn, class_names=class_names)
    return paths


def _write_shard(path: pathlib.Path, artist: str, *, concepts: list[dict], class_names: list[str]) -> None:
    from PIL import Image

    sheet = Image.open(FOLDER / f"{artist}.webp").convert("RGB")
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for index, concept in enumerate(concepts):
            left, top = index % COLUMNS * CELL, index // COLUMNS * CELL
            image = io.BytesIO()
            sheet.crop((left, top, left + CELL, top + CELL)).save(image, "png")
            record = {
                "texts": concept["texts"],
                "label": class_names.index(concept["subgroup"]),
                "class": concept["subgroup"],
                "group": concept["group"],
                "hexcode": concept["hexcode"],
                "artist": artist,
            }
            text = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
            for suffix, content in (("png", image.getvalue()), ("json", text)):
                member = tarfile.TarInfo(f"{index:07d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))

"""The embedded image-text set: about 1,900 emoji concepts, each drawn by three artists (see ATTRIBUTION.md).

It lies here as one picture sheet an artist and one list of concepts, 3.2 MB in all, and `write_shards` writes it out
as the `.tar` shards that a real run reads.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import tarfile

FOLDER = pathlib.Path(__file__).parent
ARTISTS = ("noto", "twemoji", "fluent3d")
CELL = 64  # pixels
COLUMNS = 44


def write_shards(folder: str | os.PathLike) -> dict[str, pathlib.Path]:
    """Writes one shard an artist to `folder`, unless it is there, and returns artist → path.

    A sample is `KEY.png` and `KEY.json`; the JSON has `texts` (name first), `label` and `class` (the subgroup),
    `group`, `hexcode` and `artist`. A file that is there under its final name is complete.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {artist: folder / f"emoji-{artist}-00000.tar" for artist in ARTISTS}
    with open(FOLDER / "concepts.jsonl", encoding="utf-8") as lines:
        concepts = [json.loads(line) for line in lines]
    classes = sorted({concept["subgroup"] for concept in concepts})
    for artist, path in paths.items():
        if not path.exists():
            drawn = [concept for concept in concepts if artist in concept["artists"]]
            _write_shard(path, artist, drawn, classes)
    return paths


def _write_shard(path: pathlib.Path, artist: str, concepts: list[dict], classes: list[str]) -> None:
    from PIL import Image

    sheet = Image.open(FOLDER / f"{artist}.webp").convert("RGB")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as shard:
            for index, concept in enumerate(concepts):
                left, top = index % COLUMNS * CELL, index // COLUMNS * CELL
                picture = io.BytesIO()
                sheet.crop((left, top, left + CELL, top + CELL)).save(picture, "png")
                record = {
                    "texts": concept["texts"],
                    "label": classes.index(concept["subgroup"]),
                    "class": concept["subgroup"],
                    "group": concept["group"],
                    "hexcode": concept["hexcode"],
                    "artist": artist,
                }
                text = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
                for suffix, content in (("png", picture.getvalue()), ("json", text)):
                    member = tarfile.TarInfo(f"{index:07d}.{suffix}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

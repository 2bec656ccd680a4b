"""The checkpoints of the repository are what their page says, and what README.md and docs/PHOTOS.md do with them."""

import csv
import pathlib
import re
import shlex

import numpy as np
import pytest

import adapt
import launch
from adapt.embedding.encoder import Encoder
from data.pipeline.image_ops import decode
from data.sources.open import open_source
from models.checkpoints.describe import describe_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
PUBLISHED = ("drawings", "drawings_plain")


def blocks(page, language):
    """Returns the blocks of code of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_they_are_small_of_half_precision_and_say_whose_work_they_learned_from():
    files = [file for file in (ROOT / "checkpoints").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 20e6
    page = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    for name in PUBLISHED:
        folder = ROOT / "checkpoints" / name
        found = describe_checkpoint(str(folder))
        assert found.files.float_dtype == "float16" and found.settings.vision.width == 96
        assert f"`{name}`" in page and f"({name}/README.md)" in page
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "license: cc-by-4.0" in card and "flickr8k" not in card.partition("## Measured")[0]
        for text in (page, card):
            assert all(words in text for words in ("Noto", "Twemoji", "Open Clip Art", "Apache-2.0", "CC-BY-4.0"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_drawings_are_found_by_their_names(name, tmp_path):
    """Pictures of an artist that no part of training has seen."""
    source = open_source("emoji:fluent3d", tmp_path)
    records = [source[number] for number in range(0, len(source), 8)]
    encoder = Encoder(ROOT / "checkpoints" / name)
    images = encoder.embed_images(lambda number: decode(records[number].image, records[number].key), len(records))
    texts = encoder.embed_texts([record.texts[0] for record in records])
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
    better = np.sum(images @ texts.T > np.sum(images * texts, axis=1, keepdims=True), axis=1)
    assert np.mean(better < 10) > 0.25  # of 201; chance is 5 %


def test_the_pages_sort_emoji_with_it_command_by_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    shell = blocks("docs/PHOTOS.md", "bash")
    exec(re.fullmatch(r"python - <<'END'\n(.*)END\n", shell[0], re.DOTALL).group(1), {})
    command = shlex.split(shell[1].replace("\\\n", " "))
    assert command[:2] == ["python", "launch.py"] and launch.main(command[2:]) == 0
    with open("runs/emoji/sorted/predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert np.mean([row["path"].startswith(row["class"]) for row in rows]) > 0.5  # of five classes
    exec(blocks("docs/PHOTOS.md", "python")[-1], {})

    adapting = next(code for code in blocks("README.md", "python") if "adapt.select" in code)
    names = {}
    exec(adapting, names)
    found = [names["names"][k] for k in np.asarray(names["logits"]).argmax(axis=1)]
    truth = [query.name.rpartition("-")[0] for query in names["queries"]]
    assert np.mean(np.array(found) == truth) > 0.5
    assert type(adapt.load("runs/emoji/mine")) is type(names["classifier"])

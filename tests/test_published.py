"""The published checkpoints match their page, and the commands that the documentation runs on them work."""

import csv
import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

import adapt
import launch
from adapt.embedding.encoder import Encoder
from data.icons import samples
from data.pipeline.image_ops import decode
from data.sources.open import open_source
from foundation.files.checksum_file import changed_files
from models.checkpoints.describe import describe_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
PUBLISHED = ("drawings", "drawings_plain")
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the weights that photos was made of


def blocks(page, language):
    """Return the code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_checkpoints_are_small_float16_and_credit_their_training_data():
    files = [file for file in (ROOT / "checkpoints").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 20e6
    page = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    for name in PUBLISHED:
        folder = ROOT / "checkpoints" / name
        description = describe_checkpoint(str(folder))
        assert description.files.float_dtype == "float16" and description.settings.vision.width == 96
        assert f"`{name}`" in page and f"({name}/README.md)" in page
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "license: cc-by-4.0" in card and "flickr8k" not in card.partition("## Measured")[0]
        for text in (page, card):
            assert all(words in text for words in ("Noto", "Twemoji", "Open Clip Art", "Apache-2.0", "CC-BY-4.0"))


@pytest.mark.parametrize("name", ["icons", "icons_plain"])
def test_the_heads_for_icons_open_with_their_encoder_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = ROOT / "checkpoints" / name
    assert changed_files(folder) == [] and describe_checkpoint(str(folder)).files.float_dtype == "float16"
    page, card = ((path / "README.md").read_text(encoding="utf-8") for path in (folder.parent, folder))
    assert f"({name}/README.md)" in page and "data/icons/ATTRIBUTION.md" in page and "license: cc-by-4.0" in card
    assert ("with the context objective" in card) == (name == "icons")
    encoder = Encoder(folder)
    concepts = ["umbrella", "bicycle"]
    icons = [icon for icon in samples("train") if icon.record["class"] in concepts]
    found = encoder.embed_images([icon.image for icon in icons])
    best = np.argmax(found @ encoder.embed_texts(concepts).T, axis=1)
    assert np.mean([concepts[row] == icon.record["class"] for row, icon in zip(best, icons, strict=True)]) > 0.8


def test_the_encoder_of_photos_names_its_source_and_license():
    folder = ROOT / "checkpoints" / "photos"
    description = describe_checkpoint(str(folder))
    assert description.files.float_dtype == "float16" and description.settings.text is None
    assert description.settings.dim == 1280 and description.preprocessing.shape == (224, 224)
    assert changed_files(folder) == []
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "Copyright 2020 ML Illustrated" in card
    assert SHA256 in card and "tests.parity.make_photos" in card and "ImageNet" in card
    assert "(photos/README.md)" in (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/guides/photos.md", "checkpoints/photos/README.md"])
def test_examples_of_photos_run_without_a_download(page, tmp_path, monkeypatch):
    """Bright and dark stripes of two directions, which raw pixels cannot tell apart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    code = next(code for code in blocks(page, "bash") if "--checkpoint=checkpoints/photos" in code)
    command = shlex.split(next(line for line in code.splitlines() if "--checkpoint=checkpoints/photos" in line))
    given = dict(part.removeprefix("--").split("=") for part in command if part.startswith("--"))
    for number in range(24):
        name = ("across", "down")[number % 2]
        part = f"{given['support']}/{name}" if number < 8 else given["query"]
        draw_stripes(pathlib.Path(part) / f"{name}-{number}.png", down=name == "down", seed=number)
    assert launch.main([*command[command.index("launch.py") + 1 :], "--image_size=64", "--method=prototypes"]) == 0
    with open(pathlib.Path(given["out"]) / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and all(row["path"].startswith(row["class"]) for row in rows)


def draw_stripes(path, *, down, seed):
    """Write a picture of stripes of random width, phase and colors."""
    rng = np.random.default_rng(seed)
    position = np.mgrid[:80, :80][int(down)] / rng.uniform(4, 9) + rng.uniform(0, 6)
    pixels = 127.5 + 100 * np.sin(position)[..., None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 10, (80, 80, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_text_to_image_recall_is_above_chance(name, tmp_path):
    """The emoji set of this artist is not part of the training data."""
    source = open_source("emoji:fluent3d", tmp_path)
    records = [source[number] for number in range(0, len(source), 8)]
    encoder = Encoder(ROOT / "checkpoints" / name)
    images = encoder.embed_images(lambda number: decode(records[number].image, records[number].key), len(records))
    texts = encoder.embed_texts([record.texts[0] for record in records])
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
    better = np.sum(images @ texts.T > np.sum(images * texts, axis=1, keepdims=True), axis=1)
    assert np.mean(better < 10) > 0.25  # among 201; chance is 5%


@pytest.mark.slow
def test_emoji_examples_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    shell = blocks("docs/guides/photos.md", "bash")
    exec(re.fullmatch(r"python - <<'END'\n(.*)END\n", shell[0], re.DOTALL).group(1), {})
    command = next(shlex.split(code.replace("\\\n", " ")) for code in shell if "--support=runs/emoji" in code)
    assert command[:2] == ["python", "launch.py"] and launch.main(command[2:]) == 0
    with open("runs/emoji/sorted/predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert np.mean([row["path"].startswith(row["class"]) for row in rows]) > 0.5  # five classes
    exec(blocks("docs/guides/photos.md", "python")[-1], {})

    example = next(code for code in blocks("docs/guides/adapters.md", "python") if "checkpoints/drawings" in code)
    names = {}
    exec(example, names)
    found = [names["names"][k] for k in np.asarray(names["logits"]).argmax(axis=1)]
    truth = [query.name.rpartition("-")[0] for query in names["queries"]]
    assert np.mean(np.array(found) == truth) > 0.5
    assert type(adapt.load("runs/emoji/mine")) is type(names["classifier"])

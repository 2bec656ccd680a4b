"""Split lists as sources: those of CoOp and of FGVC Aircraft."""

import io
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from data.fewshot.catalog import CATALOGUE
from data.sources.base import BadRecord, Source
from data.sources.open import known_names, open_source

LISTS = pathlib.Path(__file__).parents[4] / "shared" / "data" / "coop"
SPLIT = {
    "train": [["b/2.png", 1, "red_fox"], ["a/1.png", 0, "owl"], ["b/gone.png", 1, "red_fox"]],
    "val": [["a/3.png", 0, "owl"]],
    "test": [["c/4.png", 2, "yak"]],
}


def image(colour):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), colour, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def coop(tmp_path):
    for path in ("a/1.png", "b/2.png", "a/3.png", "c/4.png"):
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / path).write_bytes(image(int(path[2])))
    (tmp_path / "split.json").write_text(json.dumps(SPLIT))
    return f"coop:{tmp_path}/split.json:{tmp_path}/images"


@pytest.fixture
def aircraft(tmp_path):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("707-320\nBAE 146-200\nF-16A/B\n")
    for split, lines in {
        "train": "0000003 BAE 146-200\n0000001 707-320\n",
        "val": "0000002 F-16A/B\n",
        "trainval": "0000001 707-320\n0000002 F-16A/B\n0000003 BAE 146-200\n",
        "test": "0000004 707-320\n",
    }.items():
        (folder / f"images_variant_{split}.txt").write_text(lines)
    for number in (1, 2, 3):
        (folder / "images" / f"000000{number}.jpg").write_bytes(image(number))
    return folder


def test_images_come_in_the_order_of_the_list_with_class_and_path(coop, tmp_path):
    source = open_source(f"{coop}:train", tmp_path)
    assert isinstance(source, Source) and len(source) == 3
    assert [source[index].label for index in (0, 1)] == [1, 0]
    first = source[0]
    assert first.image == image(2) and first.metadata == {"path": "b/2.png"} and first.key == "images/b/2.png"
    assert first.class_name == "red_fox" and first.texts == source.texts(0) == ("red fox",)
    assert source.class_names == ["owl", "red_fox", "yak"], "includes classes of the other splits"
    assert [len(open_source(f"{coop}:{split}", tmp_path)) for split in ("val", "test")] == [1, 1]


def test_a_missing_image_is_a_bad_record(coop, tmp_path):
    source = open_source(f"{coop}:train", tmp_path)
    with pytest.raises(BadRecord, match=r"images/b/gone\.png: .* does not exist") as found:
        source[2]
    assert found.value.reason == "missing file"
    for index in (-1, 3):
        with pytest.raises(IndexError):
            source[index]


def test_the_content_fingerprint_changes_when_an_image_is_rewritten(coop, tmp_path):
    source = open_source(f"{coop}:train", tmp_path)
    before = source.content_fingerprint()
    assert before == open_source(f"{coop}:train", tmp_path).content_fingerprint()
    os.utime(tmp_path / "images" / "a" / "1.png", ns=(1, 1))
    touched = source.content_fingerprint()
    (tmp_path / "images" / "b" / "gone.png").write_bytes(image(9))
    assert len({before, touched, source.content_fingerprint()}) == 3
    assert source.fingerprint == open_source(f"{coop}:train", tmp_path).fingerprint
    assert source.fingerprint != open_source(f"{coop}:val", tmp_path).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "is not a split list"),
        ('["a"]', "is not a split list"),
        ('{"train": [["a.png", 0]]}', "is not a split list"),
        ('{"test": [["a.png", 0, "owl"]]}', "has no split 'train'. It has: test."),
        (
            '{"train": [["a.png", 0, "owl"], ["b.png", 0, "fox"]]}',
            "label 0 is both 'owl' and 'fox' \\(b.png\\). Fix the list",
        ),
        ('{"train": [["a.png", 1, "owl"]]}', "its 1 classes are not labelled 0 to 0"),
    ],
)
def test_an_invalid_list_is_rejected(coop, tmp_path, text, message):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(f"{coop}:train", tmp_path)


def test_invalid_names_and_missing_files_are_reported(coop, tmp_path):
    for name in ("coop:x.json:train", f"{coop}:training", "aircraft:train", "aircraft:/data:all"):
        with pytest.raises(ValueError, match=f"{name.split(':')[0]}:.* is not of the form .* with split "):
            open_source(name, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no\.json does not exist. Download the list from .*DATASETS.md"):
        open_source(f"coop:{tmp_path}/no.json:{tmp_path}:train", tmp_path)
    with pytest.raises(FileNotFoundError, match="/none is not a folder"):
        open_source(f"coop:{tmp_path}/split.json:{tmp_path}/none:train", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"variants\.txt does not exist. Unpack https"):
        open_source(f"aircraft:{tmp_path}/none:train", tmp_path)
    assert {name.partition(":")[0] for name in known_names()} >= {"coop", "aircraft"}


def test_aircraft_labels_follow_the_list_of_variants(aircraft, tmp_path):
    source = open_source(f"aircraft:{aircraft}:train", tmp_path)
    assert isinstance(source, Source) and source.class_names == ["707-320", "BAE 146-200", "F-16A/B"]
    assert [(source[index].label, source[index].class_name) for index in (0, 1)] == [(1, "BAE 146-200"), (0, "707-320")]
    assert source[0].image == image(3), "unchanged, with its banner"
    assert source[0].metadata == {"path": "images/0000003.jpg"} and source.key(0) == "data/images/0000003.jpg"
    counts = {
        split: len(open_source(f"aircraft:{aircraft}:{split}", tmp_path)) for split in ("val", "trainval", "test")
    }
    assert counts == {"val": 1, "trainval": 3, "test": 1}
    with pytest.raises(BadRecord, match="0000004"):
        open_source(f"aircraft:{aircraft}:test", tmp_path)[0]


def test_an_unknown_variant_is_reported(aircraft, tmp_path):
    (aircraft / "images_variant_val.txt").write_text("0000002 Concorde\n")
    with pytest.raises(ValueError, match="'0000002 Concorde' does not end in a variant"):
        open_source(f"aircraft:{aircraft}:val", tmp_path)


@pytest.mark.parametrize(
    ("list_name", "dataset", "classes", "counts"),
    [
        ("Caltech101", "coop_caltech101", 100, (4128, 1649, 2465)),
        ("DescribableTextures", "coop_dtd", 47, (2820, 1128, 1692)),
        ("OxfordFlowers", "coop_oxford_flowers", 102, (4093, 1633, 2463)),
    ],
)
def test_the_published_lists_agree_with_the_catalogue(tmp_path, list_name, dataset, classes, counts):
    path = LISTS / f"split_zhou_{list_name}.json"
    if not path.exists():
        pytest.skip(f"{path} does not exist: the published list cannot be compared")
    splits = [open_source(f"coop:{path}:{tmp_path}:{split}", tmp_path) for split in ("train", "val", "test")]
    assert tuple(map(len, splits)) == counts
    names = splits[0].class_names
    assert len(names) == classes and all(split.class_names == names for split in splits)
    given = CATALOGUE[dataset].class_names
    # Class names are listed where a name has a hyphen, which would be read as a space.
    assert (
        list(given) == [name.replace("_", " ") for name in names] if given else not any("-" in name for name in names)
    )
    first = json.loads(path.read_text())["train"][0]
    with pytest.raises(BadRecord, match="does not exist"):
        splits[0][0]
    assert splits[0].key(0).endswith(first[0]) and splits[0].texts(0) == (first[2].replace("_", " "),)

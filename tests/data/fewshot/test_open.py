"""Labelled datasets by name: classes, splits, and errors."""

import os
import shutil

import numpy as np
import pytest

from data.fewshot.labelled import DatasetSettings
from data.fewshot.open import open_dataset
from data.io.fingerprint import fingerprint
from tests.data.shard_files import labelled, png, write_shard


def pixels(images, row):
    return np.asarray(images.image(row))


def test_digits_are_dark_ink_on_white():
    digits = open_dataset("digits", "nowhere")
    assert len(digits.support) == 1797 and len(digits.class_names) == 10 and digits.query is None
    image = pixels(digits.support, 0)
    assert image.shape == (8, 8, 3) and image[0, 0].min() > 200 and image.min() < 80


def test_small_classes_are_left_out_and_labels_are_renumbered(tmp_path):
    samples = [sample for sample in labelled(30) if sample[2]["label"] != 1 or int(sample[0]) < 9]
    path = str(write_shard(tmp_path / "s.tar", samples))
    kept, whole = (open_dataset(path, tmp_path, min_examples=least) for least in (4, 1))
    assert kept.class_names == ("kind 0", "kind 2") and whole.class_names == ("kind 0", "kind 1", "kind 2")
    assert sorted(np.bincount(kept.support.labels)) == [10, 10]
    row, again = (int(np.flatnonzero(each.support.labels == label)[0]) for each, label in ((whole, 2), (kept, 1)))
    assert np.array_equal(pixels(whole.support, row), pixels(kept.support, again))
    assert whole.support.key(row) == kept.support.key(again)
    assert kept.fingerprint != whole.fingerprint and "1 of 3 classes have too few images" in kept.notes[0]


def test_identifiers_become_words(tmp_path):
    samples = [(key, image, fields | {"class": f"red-fox_{fields['label']}"}) for key, image, fields in labelled(6)]
    path = str(write_shard(tmp_path / "s.tar", samples))
    assert open_dataset(path, tmp_path).class_names == ("red fox 0", "red fox 1", "red fox 2")
    own = {"foxes": DatasetSettings(support=path, class_names=("a", "b", "c"), template="{}, a fox")}
    opened = open_dataset("foxes", tmp_path, custom_datasets=own)
    assert opened.class_names == ("a", "b", "c") and opened.templates == ("{}, a fox",)
    with pytest.raises(ValueError, match="foxes has 3 classes, but class_names lists 2"):
        open_dataset(
            "foxes", tmp_path, custom_datasets={"foxes": DatasetSettings(support=path, class_names=("a", "b"))}
        )


def test_two_classes_with_one_name_are_rejected(tmp_path):
    names = ("crane", "heron", "crane")
    samples = [(key, image, fields | {"class": names[fields["label"]]}) for key, image, fields in labelled(6)]
    with pytest.raises(ValueError, match="two classes are named 'crane'"):
        open_dataset(str(write_shard(tmp_path / "s.tar", samples)), tmp_path)


def test_a_folder_of_shards_is_opened_by_split(tmp_path):
    folder = tmp_path / "birds"
    folder.mkdir()
    write_shard(folder / "train-00000.tar", labelled(12))
    write_shard(folder / "test-00000.tar", labelled(9)[3:])
    opened = open_dataset(str(folder), tmp_path)
    assert (opened.name, len(opened.support), len(opened.query)) == ("birds", 12, 6)
    write_shard(folder / "sketch-00000.tar", labelled(7))
    drawn = open_dataset(f"{folder}:sketch:train", tmp_path)
    assert (drawn.name, len(drawn.support), len(drawn.query)) == ("birds:sketch:train", 7, 12)
    with pytest.raises(ValueError, match=r"has no split 'photo'\. It has: sketch, test, train"):
        open_dataset(f"{folder}:photo:train", tmp_path)
    os.remove(folder / "train-00000.tar")
    with pytest.raises(
        ValueError, match=r"has the splits sketch, test, .* Name the support .* for example .*birds:sketch:test"
    ):
        open_dataset(str(folder), tmp_path)


def test_splits_can_be_folders_of_shards(tmp_path):
    for split, count in (("train", 12), ("test", 6)):
        (tmp_path / "birds" / split).mkdir(parents=True)
        write_shard(tmp_path / "birds" / split / "00000.tar", labelled(count))
    for _ in range(2):  # the second time with index files next to the shards
        opened = open_dataset(str(tmp_path / "birds"), tmp_path)
        assert (opened.name, len(opened.support), len(opened.query)) == ("birds", 12, 6)


def test_splits_with_different_class_folders_are_matched_by_name(tmp_path):
    for split, names in (("train", ("ant", "bee", "cat")), ("test", ("bee", "cat", "dog"))):
        for name in names:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(2):
                (tmp_path / "set" / split / name / f"{number}.png").write_bytes(png(number, (8, 8)))
    opened = open_dataset(str(tmp_path / "set"), tmp_path)
    assert opened.class_names == ("ant", "bee", "cat")
    assert opened.query.labels.tolist() == [1, 1, 2, 2]
    assert opened.query.key(0) == "test/bee/0.png"
    assert "1 query classes, such as 'dog', have no support images" in opened.notes[0]


def test_shifts_are_matched_to_classes_by_name(tmp_path):
    train = write_shard(tmp_path / "train.tar", labelled(12, classes=4))
    sketches = [(key, image, fields | {"label": 1 - fields["label"]}) for key, image, fields in labelled(6, classes=2)]
    own = {
        "photos": DatasetSettings(support=str(train), shifts=("sketches",)),
        "sketches": DatasetSettings(query=str(write_shard(tmp_path / "sketches.tar", sketches))),
    }
    shift = open_dataset("photos", tmp_path, custom_datasets=own).shifts["sketches"]
    names = [fields["class"] for _, _, fields in sketches]
    assert [f"kind {label}" for label in shift.labels] == names and set(names) == {"kind 0", "kind 1"}
    own["sketches"] = DatasetSettings(query=str(tmp_path / "gone.tar"))
    alone = open_dataset("photos", tmp_path, custom_datasets=own, with_shifts=False)
    assert alone.shifts == {} and len(alone.support) == 12


def test_labels_are_read_again_when_a_file_changes(tmp_path, monkeypatch):
    path = write_shard(tmp_path / "s.tar", labelled(9))
    first = open_dataset(str(path), tmp_path / "data")
    cached = open_dataset(str(path), tmp_path / "data")
    assert cached.fingerprint == first.fingerprint
    (file,) = (tmp_path / "data" / ".labels").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert open_dataset(str(path), tmp_path / "data").fingerprint == first.fingerprint
    assert file.read_bytes() == content
    changed = [
        (key, png(7, (20, 16)), fields) if key == "0004" else (key, image, fields) for key, image, fields in labelled(9)
    ]
    write_shard(path, changed)
    os.utime(path, ns=(1, 1))
    assert open_dataset(str(path), tmp_path / "data").fingerprint != first.fingerprint
    moved = shutil.copy(write_shard(path, labelled(9)), tmp_path / "t.tar")
    assert open_dataset(str(moved), tmp_path / "data").support.fingerprint == first.support.fingerprint


def test_too_few_images_and_missing_labels_are_reported(tmp_path):
    path = str(write_shard(tmp_path / "s.tar", labelled(9)))
    with pytest.raises(ValueError, match="0 of 3 classes have at least 20 images"):
        open_dataset(path, tmp_path, min_examples=20)
    samples = labelled(4)
    del samples[2][2]["label"]
    with pytest.raises(ValueError, match=r"u\.tar/0002 has no label or no class"):
        open_dataset(str(write_shard(tmp_path / "u.tar", samples)), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file matches '.*nothing\.tar'\. Known names: .*digits"):
        open_dataset(str(tmp_path / "nothing.tar"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs a support, a query, or both"),
        ({"support": "s", "metric": "f1"}, r"unknown metric 'f1'\. Known: accuracy, mean_per_class_accuracy"),
        ({"support": "s", "draws": "lots"}, r"unknown draws 'lots'\. Known: nested, coop"),
        ({"support": "s", "template": "a photo"}, r"the template 'a photo' must contain exactly one \{\}"),
    ],
)
def test_invalid_settings_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        DatasetSettings(**settings)


def test_a_label_with_two_names_is_rejected(tmp_path):
    samples = labelled(6)
    samples[3][2]["class"] = "another"
    with pytest.raises(ValueError, match="label 0 is both 'kind 0' and 'another'"):
        open_dataset(str(write_shard(tmp_path / "s.tar", samples)), tmp_path)


def test_fingerprints_depend_on_the_content_and_its_division():
    assert fingerprint(b"ab", b"c") != fingerprint(b"a", b"bc")
    assert fingerprint("a", np.arange(3)) == fingerprint("a", np.arange(3)) != fingerprint("a", np.arange(1, 4))

"""Labelled sets by name: classes, splits, and what is told where something is missing."""

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


def test_small_classes_are_left_out_and_labels_renumbered(tmp_path):
    samples = [sample for sample in labelled(30) if sample[2]["label"] != 1 or int(sample[0]) < 9]
    path = str(write_shard(tmp_path / "s.tar", samples))
    kept, whole = (open_dataset(path, tmp_path, min_examples=least) for least in (4, 1))
    assert kept.class_names == ("kind 0", "kind 2") and whole.class_names == ("kind 0", "kind 1", "kind 2")
    assert sorted(np.bincount(kept.support.labels)) == [10, 10]
    row, again = (int(np.flatnonzero(each.support.labels == label)[0]) for each, label in ((whole, 2), (kept, 1)))
    assert np.array_equal(pixels(whole.support, row), pixels(kept.support, again))
    assert whole.support.key(row) == kept.support.key(again)
    assert kept.fingerprint != whole.fingerprint and "1 of 3 classes have too few examples" in kept.notes[0]


def test_class_names_that_are_identifiers_are_put_in_words(tmp_path):
    samples = [(key, image, fields | {"class": f"red-fox_{fields['label']}"}) for key, image, fields in labelled(6)]
    path = str(write_shard(tmp_path / "s.tar", samples))
    assert open_dataset(path, tmp_path).class_names == ("red fox 0", "red fox 1", "red fox 2")
    own = {"foxes": DatasetSettings(support=path, class_names=("a", "b", "c"), template="{}, a fox")}
    opened = open_dataset("foxes", tmp_path, custom_datasets=own)
    assert opened.class_names == ("a", "b", "c") and opened.templates == ("{}, a fox",)
    with pytest.raises(ValueError, match="foxes has 3 classes, and 2 class_names are given"):
        open_dataset(
            "foxes", tmp_path, custom_datasets={"foxes": DatasetSettings(support=path, class_names=("a", "b"))}
        )


def test_two_classes_of_one_name_are_refused_rather_than_taken_for_one(tmp_path):
    names = ("crane", "heron", "crane")
    samples = [(key, image, fields | {"class": names[fields["label"]]}) for key, image, fields in labelled(6)]
    with pytest.raises(ValueError, match="two of its classes are called 'crane'"):
        open_dataset(str(write_shard(tmp_path / "s.tar", samples)), tmp_path)


def test_a_folder_of_shards_is_opened_by_its_splits(tmp_path):
    folder = tmp_path / "birds"
    folder.mkdir()
    write_shard(folder / "train-00000.tar", labelled(12))
    write_shard(folder / "test-00000.tar", labelled(9)[3:])
    opened = open_dataset(str(folder), tmp_path)
    assert (opened.name, len(opened.support), len(opened.query)) == ("birds", 12, 6)
    write_shard(folder / "sketch-00000.tar", labelled(7))
    drawn = open_dataset(f"{folder}:sketch:train", tmp_path)
    assert (drawn.name, len(drawn.support), len(drawn.query)) == ("birds:sketch:train", 7, 12)
    with pytest.raises(ValueError, match=r"has no split 'photo'; it has sketch, test, train"):
        open_dataset(f"{folder}:photo:train", tmp_path)
    os.remove(folder / "train-00000.tar")
    with pytest.raises(ValueError, match=r"holds the splits sketch, test; name one .* such as .*birds:sketch:test"):
        open_dataset(str(folder), tmp_path)


def test_splits_may_be_folders_of_shards(tmp_path):
    for split, count in (("train", 12), ("test", 6)):
        (tmp_path / "birds" / split).mkdir(parents=True)
        write_shard(tmp_path / "birds" / split / "00000.tar", labelled(count))
    for _ in range(2):  # the second time with the indexes beside the shards
        opened = open_dataset(str(tmp_path / "birds"), tmp_path)
        assert (opened.name, len(opened.support), len(opened.query)) == ("birds", 12, 6)


def test_class_folders_whose_splits_differ_in_classes_agree_by_name(tmp_path):
    for split, names in (("train", ("ant", "bee", "cat")), ("test", ("bee", "cat", "dog"))):
        for name in names:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(2):
                (tmp_path / "set" / split / name / f"{number}.png").write_bytes(png(number, (8, 8)))
    opened = open_dataset(str(tmp_path / "set"), tmp_path)
    assert opened.class_names == ("ant", "bee", "cat")
    assert opened.query.labels.tolist() == [1, 1, 2, 2]
    assert opened.query.key(0) == "test/bee/0.png"
    assert "1 classes of the queries, such as 'dog', have no examples" in opened.notes[0]


def test_shifts_have_the_classes_of_the_set(tmp_path):
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


def test_labels_are_read_again_where_a_file_was_written_anew(tmp_path, monkeypatch):
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


def test_too_few_examples_and_missing_labels_are_told(tmp_path):
    path = str(write_shard(tmp_path / "s.tar", labelled(9)))
    with pytest.raises(ValueError, match="0 of 3 classes have at least 20 examples"):
        open_dataset(path, tmp_path, min_examples=20)
    samples = labelled(4)
    del samples[2][2]["label"]
    with pytest.raises(ValueError, match=r"u\.tar/0002 has no label or class"):
        open_dataset(str(write_shard(tmp_path / "u.tar", samples)), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file matches '.*nothing\.tar'; known names: .*digits"):
        open_dataset(str(tmp_path / "nothing.tar"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs a support, a query or both"),
        ({"support": "s", "metric": "f1"}, "unknown metric 'f1'; known: accuracy, mean_per_class_accuracy"),
        ({"support": "s", "draws": "lots"}, "unknown draws 'lots'; known: nested, coop"),
        ({"support": "s", "template": "a photo"}, r"the template 'a photo' must have one \{\}"),
    ],
)
def test_impossible_settings_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        DatasetSettings(**settings)


def test_one_label_with_two_names_is_told(tmp_path):
    samples = labelled(6)
    samples[3][2]["class"] = "another"
    with pytest.raises(ValueError, match="label 0 is 'kind 0' and 'another'"):
        open_dataset(str(write_shard(tmp_path / "s.tar", samples)), tmp_path)


def test_a_fingerprint_changes_with_the_content_and_its_parts():
    assert fingerprint(b"ab", b"c") != fingerprint(b"a", b"bc")
    assert fingerprint("a", np.arange(3)) == fingerprint("a", np.arange(3)) != fingerprint("a", np.arange(1, 4))

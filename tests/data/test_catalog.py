"""Labelled sets by name."""

import numpy as np
import pytest

from data.catalog import load_labelled
from data.fingerprint import fingerprint
from tests.data.shard_files import labelled, write_shard


def test_digits_are_dark_ink_on_white():
    digits = load_labelled("digits", "nowhere", min_examples=20)
    assert len(digits) == 1797 and len(digits.class_names) == 10
    image = np.asarray(digits.image(0))
    assert image.shape == (8, 8, 3) and image[0, 0].min() > 200 and image.min() < 80


def test_small_classes_are_left_out_and_labels_renumbered(tmp_path):
    samples = [sample for sample in labelled(30) if sample[2]["label"] != 1 or int(sample[0]) < 9]
    path = str(write_shard(tmp_path / "s.tar", samples))
    kept = load_labelled(path, tmp_path, min_examples=4)
    assert list(kept.class_names) == ["kind 0", "kind 2"]
    assert sorted(np.bincount(kept.labels)) == [10, 10]
    whole = load_labelled(path, tmp_path, min_examples=1)
    row = int(np.flatnonzero(whole.labels == 2)[0])
    again = int(np.flatnonzero(kept.labels == 1)[0])
    assert np.array_equal(np.asarray(whole.image(row)), np.asarray(kept.image(again)))
    assert kept.fingerprint != whole.fingerprint


def test_class_names_that_are_identifiers_are_put_in_words(tmp_path):
    samples = [(key, image, fields | {"class": f"red-fox_{fields['label']}"}) for key, image, fields in labelled(6)]
    names = load_labelled(str(write_shard(tmp_path / "s.tar", samples)), tmp_path, min_examples=1).class_names
    assert list(names) == ["red fox 0", "red fox 1", "red fox 2"]


def test_too_few_examples_and_missing_labels_are_told(tmp_path):
    path = str(write_shard(tmp_path / "s.tar", labelled(9)))
    with pytest.raises(ValueError, match="0 of 3 classes have at least 20 examples"):
        load_labelled(path, tmp_path, min_examples=20)
    samples = labelled(4)
    del samples[2][2]["label"]
    with pytest.raises(ValueError, match=r"u\.tar/0002 has no label or class"):
        load_labelled(str(write_shard(tmp_path / "u.tar", samples)), tmp_path, min_examples=1)


def test_one_label_with_two_names_is_told(tmp_path):
    samples = labelled(6)
    samples[3][2]["class"] = "another"
    with pytest.raises(ValueError, match="label 0 is 'kind 0' and 'another'"):
        load_labelled(str(write_shard(tmp_path / "s.tar", samples)), tmp_path, min_examples=1)


def test_a_fingerprint_changes_with_the_content_and_its_parts():
    assert fingerprint(b"ab", b"c") != fingerprint(b"a", b"bc")
    assert fingerprint("a", np.arange(3)) == fingerprint("a", np.arange(3)) != fingerprint("a", np.arange(1, 4))

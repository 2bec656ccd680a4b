"""Saving and loading of classifiers."""

import json

import numpy as np
import pytest

import adapt
from tests.adapt.adapters import references

FEATURES, LABELS, TEXT, QUERIES = references.example()


@pytest.mark.slow
@pytest.mark.parametrize("name", adapt.METHODS)
def test_a_loaded_classifier_gives_the_same_logits_and_can_be_extended(tmp_path, name):
    classifier = adapt.create(name).fit(FEATURES, LABELS, class_text_features=TEXT, logit_scale=30.0)
    classifier.save(tmp_path / "mine")
    opened = adapt.load(tmp_path / "mine")
    assert opened.adapter == classifier.adapter
    np.testing.assert_array_equal(opened(QUERIES), classifier(QUERIES))
    more = FEATURES[:3] + 1, LABELS[:3]
    np.testing.assert_array_equal(opened.extend(*more)(QUERIES), classifier.extend(*more)(QUERIES))
    files = sorted((tmp_path / "mine").iterdir())
    assert [path.name for path in files] == ["classifier.json", "classifier.safetensors"]
    assert len({path.stat().st_mode for path in files}) == 1


def test_settings_and_classes_without_text_are_restored(tmp_path):
    settings = {"k": 3, "votes": "rank", "temperature": 0.2}
    adapt.create("knn", **settings).fit(FEATURES, LABELS, num_classes=9).save(tmp_path)
    adapt.create("prototypes").fit(FEATURES, LABELS, class_text_features=TEXT).save(tmp_path / "other")
    adapt.create("prototypes", centering="raw").fit(FEATURES, LABELS, num_classes=9).save(tmp_path / "other")
    opened = adapt.load(tmp_path)
    assert opened.adapter == adapt.create("knn", **settings)
    assert opened(QUERIES).shape == adapt.load(tmp_path / "other")(QUERIES).shape == (11, 9)
    assert json.loads((tmp_path / "classifier.json").read_text())["settings"] == settings


def test_folders_without_a_valid_classifier_raise(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"has no classifier\.json\. Name a folder that `classifier\.save` or `launch\.py adapt` wrote",
    ):
        adapt.load(tmp_path)
    adapt.create("knn").fit(FEATURES, LABELS).save(tmp_path)
    described = json.loads((tmp_path / "classifier.json").read_text())
    for change, message in [
        ({"method": "svm"}, "unknown method 'svm'"),
        ({"settings": {"k": 0}}, "k 0 is less than 1"),
        ({"format": 9}, "format 9 is not 1; another version of this project wrote it"),
        ({"dim": 8}, "the features have 7 dimensions, not 8"),
        ({"classes": "6"}, "classes '6' is not a valid number of classes"),
        ({"classes": 2}, "classes 2 is not a valid number of classes"),
        ({"method": "gda", "settings": {}}, "its arrays do not have the shapes of gda"),
    ]:
        (tmp_path / "classifier.json").write_text(json.dumps(described | change))
        with pytest.raises(ValueError, match=f"does not hold a valid classifier: {message}"):
            adapt.load(tmp_path)
    (tmp_path / "classifier.json").write_text("{")
    with pytest.raises(ValueError, match="does not hold a valid classifier"):
        adapt.load(tmp_path)
    (tmp_path / "classifier.json").write_text(json.dumps(described))
    (tmp_path / "classifier.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="does not hold a valid classifier"):
        adapt.load(tmp_path)

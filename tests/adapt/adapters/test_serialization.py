"""Classifiers written to a folder and opened again."""

import json

import numpy as np
import pytest

import adapt
from tests.adapt.adapters import references

FEATURES, LABELS, TEXT, QUERIES = references.example()


@pytest.mark.parametrize("name", adapt.METHODS)
def test_an_opened_classifier_gives_the_same_logits_and_can_be_extended(tmp_path, name):
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


def test_settings_and_classes_without_text_come_back(tmp_path):
    settings = {"k": 3, "votes": "rank", "temperature": 0.2}
    adapt.create("knn", **settings).fit(FEATURES, LABELS, num_classes=9).save(tmp_path)
    adapt.create("prototypes").fit(FEATURES, LABELS, class_text_features=TEXT).save(tmp_path / "other")
    adapt.create("prototypes", centering="raw").fit(FEATURES, LABELS, num_classes=9).save(tmp_path / "other")
    opened = adapt.load(tmp_path)
    assert opened.adapter == adapt.create("knn", **settings)
    assert opened(QUERIES).shape == adapt.load(tmp_path / "other")(QUERIES).shape == (11, 9)
    assert json.loads((tmp_path / "classifier.json").read_text())["settings"] == settings


def test_what_is_no_classifier_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no classifier\.json; `classifier\.save` and"):
        adapt.load(tmp_path)
    adapt.create("knn").fit(FEATURES, LABELS).save(tmp_path)
    described = json.loads((tmp_path / "classifier.json").read_text())
    for change, message in [
        ({"method": "svm"}, "unknown adapter 'svm'"),
        ({"settings": {"k": 0}}, "k 0 is less than 1"),
        ({"format": 9}, "format 9 is not 1"),
        ({"dim": 8}, "features have 7 dimensions, not 8"),
        ({"classes": "6"}, "'6' is not the number of classes"),
        ({"classes": 2}, "2 is not the number of classes"),
        ({"method": "gda", "settings": {}}, "its arrays are not those of gda"),
    ]:
        (tmp_path / "classifier.json").write_text(json.dumps(described | change))
        with pytest.raises(ValueError, match=f"does not hold a classifier that can be opened: {message}"):
            adapt.load(tmp_path)
    (tmp_path / "classifier.json").write_text("{")
    with pytest.raises(ValueError, match="does not hold a classifier"):
        adapt.load(tmp_path)
    (tmp_path / "classifier.json").write_text(json.dumps(described))
    (tmp_path / "classifier.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="does not hold a classifier"):
        adapt.load(tmp_path)

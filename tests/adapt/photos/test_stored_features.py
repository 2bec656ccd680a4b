"""Sorting stored features without a checkpoint."""

import csv
import json

import numpy as np
import pytest

import adapt
import launch
from adapt.photos.stored_features import FeatureSortingTask, sort_features
from tests.data.features.test_labelled import CLASSES, LABELS, NAMES, QUERY, SUPPORT, TEXTS, embedded, write
from tests.logged import logged


def predictions(out):
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_are_classified_and_named_by_their_numbers(tmp_path, capsys):
    folder = write(tmp_path / "x", query_labels=None)
    given = [f"--features={folder}", f"--out={tmp_path / 'out'}", "--method=tip_adapter"]
    assert launch.main(["adapt", *given]) == 0
    rows = predictions(tmp_path / "out")
    assert [row["path"] for row in rows] == ["0", "1", "2", "3"] and [row["class"] for row in rows] == NAMES[1]
    assert "there is no page, as stored features have no pictures" in capsys.readouterr().out
    assert not (tmp_path / "out" / "predictions.html").exists()
    described = json.loads((tmp_path / "out" / "classifier" / "classes.json").read_text())
    assert described["classes"] == CLASSES and described["features"] == str(folder) and described["checkpoint"] is None
    chosen = adapt.select("tip_adapter", SUPPORT, LABELS, class_text_features=TEXTS).adapter
    expected = chosen.fit(SUPPORT, LABELS, class_text_features=TEXTS)(QUERY)
    np.testing.assert_allclose(adapt.load(tmp_path / "out" / "classifier")(QUERY), expected, rtol=1e-4, atol=1e-4)
    estimator = adapt.FewShotClassifier.load(tmp_path / "out" / "classifier")
    assert estimator.predict(QUERY).tolist() == NAMES[1]
    shown = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(estimator.predict_proba(QUERY).max(axis=1), shown, atol=1e-5)


def test_other_rows_with_ids_are_classified_instead(tmp_path):
    folder = write(tmp_path / "x", query_labels=None, texts=None)
    other = embedded(tmp_path / "new", QUERY[::-1], ["b/1.jpg", "b/2.jpg", "=c", "d"])
    sort_features(FeatureSortingTask(features=str(folder), query=str(other), out=tmp_path / "out", method="prototypes"))
    rows = predictions(tmp_path / "out")
    assert [row["path"] for row in rows] == ["b/1.jpg", "b/2.jpg", "'=c", "d"]
    assert [row["class"] for row in rows] == NAMES[1][::-1]


def test_template_none_leaves_the_text_features_out(tmp_path):
    folder = write(tmp_path / "x")
    given = [f"--features={folder}", f"--out={tmp_path / 'out'}", "--method=prototypes", "--template=none"]
    assert launch.main(["adapt", *given]) == 0
    assert adapt.load(tmp_path / "out" / "classifier").support.class_text_features is None


@pytest.mark.parametrize(
    ("changes", "method", "message"),
    [
        ({"query": None}, "prototypes", "has no query features. Add query.npy, or set --query to their file"),
        ({"texts": None}, "ape", "has no text features, and ape needs class texts. Use another --method"),
        ({"query": SUPPORT}, "prototypes", "the same features. Name other features to classify"),
        ({}, "magic", "unknown method 'magic'"),
    ],
)
def test_a_task_that_cannot_work_is_one_sentence(tmp_path, changes, method, message):
    folder = write(tmp_path / "x", **changes)
    with pytest.raises(ValueError, match=message):
        sort_features(FeatureSortingTask(features=str(folder), out=tmp_path / "out", method=method))
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_copies_of_support_rows_are_reported(tmp_path):
    twice = np.concatenate([SUPPORT, SUPPORT[:1]])
    folder = write(tmp_path / "x", support=twice, support_labels=np.append(LABELS, 1), query=SUPPORT[2:4] * 1)
    with logged() as messages:
        sort_features(FeatureSortingTask(features=str(folder), out=tmp_path / "out", method="prototypes"))
    assert any("2 of 2 query rows are identical to a support row" in line for line in messages)
    assert any("2 support images have an identical image in another class" in line for line in messages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features=x", "--checkpoint=c"], "--checkpoint=c cannot be used with --features"),
        (["--features=x", "--template=a {}"], "--template=a {} cannot be used with --features"),
        (["--support=s"], "the following arguments are required: --checkpoint, --query; or --features"),
    ],
)
def test_options_of_images_and_features_are_not_mixed(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        launch.main(["adapt", *options, f"--out={tmp_path / 'out'}"])
    assert message in capsys.readouterr().err

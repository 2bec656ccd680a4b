"""The results of a session, and the jobs that take them."""

import csv
import json
import os

import numpy as np
import pytest

import adapt
from adapt.labelling.export import export_session
from data.sources.image_folders import ClassFolders
from tests.adapt.labelling.sessions import COLOURS, colour_features, make_pictures, open_session


@pytest.fixture
def labelled(tmp_path):
    """A session with twelve labels, and the class of each picture by name."""
    truth = make_pictures(tmp_path / "pictures")
    session = open_session(tmp_path / "pictures", tmp_path / "out")
    for number in range(12):
        session.label([number], truth[session.pictures.names[number]])
    return session, truth


def export(session, placement="copy"):
    return export_session(session, placement=placement, described={"checkpoint": "c"}, progress=lambda *_: None)


@pytest.mark.parametrize("placement", ["copy", "link"])
def test_folders_have_every_picture_and_the_support_set_the_labelled_ones(labelled, placement):
    session, truth = labelled
    found = export(session, placement)
    assert (found.pictures, found.labelled, found.alone) == (30, 12, 0)
    files = [path for folder in ("classes", "far") for path in session.out.glob(f"{folder}/*/*")]
    assert {path.name: path.parent.name for path in files} == truth
    support = {path.name: path.parent.name for path in session.out.glob("support/*/*")}
    assert support == {session.pictures.names[number]: truth[session.pictures.names[number]] for number in range(12)}
    assert all(path.is_symlink() == (placement == "link") for path in files)
    source = ClassFolders(str(session.out / "support"))
    assert source.class_names == sorted(COLOURS)
    assert len(source) == 12


def test_the_saved_classifier_predicts_what_the_page_shows(labelled):
    session, _ = labelled
    export(session)
    shown = session.predictions
    classifier = adapt.load(session.out / "classifier")
    names = json.loads((session.out / "classifier" / "classes.json").read_text())["classes"]
    assert names == session.class_names
    np.testing.assert_allclose(shown.logits, classifier(session.features), rtol=1e-4, atol=2e-3)
    with open(session.out / "predictions.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    for row, number in enumerate(session.numbers):
        name, label = session.pictures.names[number], session.labels.get(int(number))
        assert rows[name]["class"] == (label or session.class_names[shown.predicted[row]])
        probability = 1.0 if label else shown.confidence[row]
        assert float(rows[name]["probability"]) == pytest.approx(probability, abs=1e-3)


def test_a_second_export_moves_what_has_changed_and_leaves_foreign_files_alone(labelled):
    session, truth = labelled
    export(session)
    name = session.pictures.names[0]
    (session.out / "classes" / "mine").mkdir()
    (session.out / "classes" / "mine" / "note.txt").write_text("keep")
    other = next(colour for colour in COLOURS if colour != truth[name])
    session.label([0], other)
    export(session)
    assert (session.out / "support" / other / name).exists()
    assert not (session.out / "support" / truth[name] / name).exists()
    assert (session.out / "classes" / "mine" / "note.txt").read_text() == "keep"


def test_a_renamed_class_is_another_folder_at_the_next_export(labelled):
    session, truth = labelled
    export(session)
    session.rename_class("red", "crimson")
    assert export(session).alone == 0
    reds = {name for name in truth if truth[name] == "red"}
    for folder, expected in (("classes", reds), ("support", {session.pictures.names[n] for n in range(12)} & reds)):
        assert not (session.out / folder / "red").exists()
        assert {path.name for path in (session.out / folder / "crimson").iterdir()} == expected
    names = json.loads((session.out / "classifier" / "classes.json").read_text())["classes"]
    assert names == session.class_names
    assert {path.name for path in (session.out / "far").glob("*/*")} == set()


def test_classes_without_labels_are_left_out(labelled):
    session, truth = labelled
    session.label([12], "mistake")
    session.label([12], truth[session.pictures.names[12]])
    assert "mistake" in session.class_names
    export(session)
    names = json.loads((session.out / "classifier" / "classes.json").read_text())["classes"]
    assert names == [name for name in session.class_names if name != "mistake"]


def test_hostile_file_names_are_sorted_and_labelled(tmp_path):
    truth = make_pictures(tmp_path / "pictures", per_class=4)
    hostile = ['"><img src=x>.png', "-rf.png", "a b%2e%2e.png", "ä\n.png"]
    renamed = dict(zip(sorted(truth), hostile, strict=False))
    for old, new in renamed.items():
        (tmp_path / "pictures" / old).rename(tmp_path / "pictures" / new)
    os.rename(tmp_path / "pictures" / "IMG_004.png", os.fsencode(tmp_path / "pictures") + b"/\xe9.png")
    session = open_session(tmp_path / "pictures", tmp_path / "out")
    for number, colour in enumerate(["red", "green", "&script;", "red", "green"] * 2):
        session.label([number], colour)
    assert export(session).pictures == 12
    assert open_session(tmp_path / "pictures", tmp_path / "out").labels == session.labels
    assert len(list((tmp_path / "out").glob("support/*/*"))) == 10


def test_pictures_that_vanished_or_are_not_read_yet_are_left_out_and_counted(tmp_path):
    truth = make_pictures(tmp_path / "pictures")
    session = open_session(tmp_path / "pictures", tmp_path / "out", embedded=False)
    session.add_features(list(range(20)), colour_features(session.pictures)[:20])
    for number in (*range(12), 25):
        session.label([number], truth[session.pictures.names[number]])
    (tmp_path / "pictures" / session.pictures.names[0]).unlink()
    found = export(session)
    assert (found.pictures, found.labelled, found.left_out) == (19, 11, 11)
    assert len(list((tmp_path / "out").glob("support/*/*"))) == 11
    assert 0 in session.bad


def test_too_few_classes_are_refused(tmp_path):
    make_pictures(tmp_path / "pictures", per_class=2)
    session = open_session(tmp_path / "pictures", tmp_path / "out")
    session.label([0], "red")
    with pytest.raises(ValueError, match="fewer than two classes"):
        export(session)
    assert not (tmp_path / "out" / "classes").exists()

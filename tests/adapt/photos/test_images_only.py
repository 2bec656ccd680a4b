"""Sorting photos with a checkpoint that embeds images only."""

import csv
import json

import pytest

import launch
from adapt.adapters.registry import METHODS, TRAINING_FREE
from adapt.embedding.encoder import Encoder
from adapt.photos.pipeline import sort_photos
from models.checkpoints.io import save_checkpoint
from tests.adapt.photos.test_pipeline import COLORS, make, task
from tests.logged import logged
from tests.models.tiny_models import images_only_checkpoint

WITHOUT_TEXT = [name for name in METHODS if not METHODS[name].needs_text]
WITH_TEXT = [name for name in METHODS if METHODS[name].needs_text]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "photos", images_only_checkpoint())


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make(tmp_path_factory.mktemp("colors"), 2)


def test_auto_chooses_among_the_methods_that_need_no_text(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("adapt.model_selection.methods.TRAINING_FREE", ("zero_shot", "prototypes", "tip_x", "knn"))
    with logged() as messages:
        result = sort_photos(encoder, task(photos, tmp_path / "out"))
    assert [candidate.method for candidate in result.choice.candidates] == ["prototypes", "knn"]
    assert any(line.endswith("photos embeds images only: class names are not used") for line in messages)
    described = json.loads((tmp_path / "out" / "classifier" / "classes.json").read_text())
    assert described["templates"] == [] and described["classes"] == list(COLORS)
    assert described["checkpoint_fingerprint"] == encoder.image_fingerprint
    assert (tmp_path / "out" / "predictions.html").is_file()


@pytest.mark.parametrize("templates", [("a photo of a {}.",), ("a {}", "one {}")])
def test_a_given_template_is_refused(encoder, photos, tmp_path, templates):
    with pytest.raises(ValueError, match=r"photos embeds images only, so --template=a .* cannot be used. Leave it out"):
        sort_photos(encoder, task(photos, tmp_path / "out", templates=templates))


@pytest.mark.parametrize("method", WITH_TEXT)
def test_a_method_that_needs_text_is_refused_with_those_that_work(encoder, photos, tmp_path, method):
    with pytest.raises(ValueError, match=f"embeds images only, and {method} needs class texts") as raised:
        sort_photos(encoder, task(photos, tmp_path / "out", method=method))
    assert all(name in str(raised.value) for name in TRAINING_FREE if name in WITHOUT_TEXT)
    assert not (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.parametrize("method", [pytest.param(name, marks=pytest.mark.slow) for name in WITHOUT_TEXT])
def test_a_method_that_needs_no_text_works(encoder, photos, tmp_path, method):
    result = sort_photos(encoder, task(photos, tmp_path / "out", method=method))
    assert result.choice.chosen.method == method and len(result.predicted) == 15


@pytest.mark.parametrize("options", [[], ["--template=none"]], ids=["default", "none"])
def test_the_job_works_with_and_without_the_option(folder, photos, tmp_path, options):
    command = ["adapt", f"--checkpoint={folder}", f"--support={photos / 'support'}", f"--query={photos / 'query'}"]
    assert launch.main([*command, f"--out={tmp_path / 'out'}", "--method=prototypes", *options]) == 0
    with open(tmp_path / "out" / "predictions.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 15


def test_the_job_refuses_a_template(folder, photos, tmp_path, capsys):
    command = ["adapt", f"--checkpoint={folder}", f"--support={photos / 'support'}", f"--query={photos / 'query'}"]
    assert launch.main([*command, f"--out={tmp_path / 'out'}", "--template=a photo of a {}."]) != 0
    assert "embeds images only, so --template=a photo of a {}. cannot be used" in capsys.readouterr().err

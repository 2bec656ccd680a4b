"""Baselines of a tiny checkpoint: recomputed from the pictures, resumed, and shown in the report."""

import io

import numpy as np
import pytest
from PIL import Image

from adapt.embedding.encoder import Encoder
from adapt.evaluation.baselines.classification import CLASSIFIERS
from adapt.evaluation.baselines.encoders import PixelEncoder, UntrainedEncoder
from adapt.evaluation.online import EvaluationInTraining
from adapt.evaluation.run import EvaluateSettings, evaluate
from adapt.evaluation.sampling import draw_nested
from adapt.report.html_report import write_report
from adapt.report.results_index import read_runs
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, write_shard
from tests.logged import logged
from tests.models.tiny_models import tiny_checkpoint

SAMPLES = labelled(30)
LABELS = np.array([fields["label"] for _, _, fields in SAMPLES])
SHOTS, SEEDS = (1, 3), 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    for name in ("a", "b"):
        save_checkpoint(folder / name, tiny_checkpoint("siglip"))
    write_shard(folder / "s.tar", SAMPLES)
    return folder


def settings(folder, **changes):
    own = {"things": {"support": str(folder / "s.tar"), "template": "{}"}}
    return EvaluateSettings(
        datasets=("things",), custom_datasets=own, shots=SHOTS, seeds=SEEDS, methods=("prototypes",), **changes
    )


def run(folder, out, checkpoints=("a",), **changes):
    names = {name: folder / name for name in checkpoints}
    return evaluate(names, settings(folder, **changes), out=folder / out / "evaluation", data_dir=folder)


def test_pixels_are_those_of_the_resized_image():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (16, 16, 3), np.uint8)
    image = Image.fromarray(blocks.repeat(3, axis=0).repeat(2, axis=1))
    exact = next(PixelEncoder().iterate_images(lambda number: Image.fromarray(blocks), range(1)))
    np.testing.assert_array_equal(exact, blocks.reshape(1, -1).astype(np.float32) / 255)
    near = next(PixelEncoder().iterate_images(lambda number: image, range(1)))
    assert np.abs(near - exact).mean() < 0.1 and near.dtype == np.float32


def test_accuracies_are_those_of_the_same_support_sets_and_queries_as_the_methods(folder):
    rows = [row for row in run(folder, "recomputed") if row["task"] == "baseline"]
    methods = {f"{kind}: {name}" for kind in ("raw_pixels", "untrained") for name in CLASSIFIERS}
    assert {row["method"] for row in rows} == methods and len(rows) == len(methods) * len(SHOTS) * SEEDS
    pictures = [Image.open(io.BytesIO(encoded)).convert("RGB") for _, encoded, _ in SAMPLES]
    encoders = {"raw_pixels": PixelEncoder(), "untrained": UntrainedEncoder(folder / "a")}
    features = {
        name: np.concatenate(list(each.iterate_images(pictures.__getitem__, range(len(pictures)))))
        for name, each in encoders.items()
    }
    assert features["untrained"].shape == (len(SAMPLES), Encoder(folder / "a").dim)
    for row in rows:
        kind, _, name = row["method"].partition(": ")
        drawn = draw_nested(LABELS, LABELS.max() + 1, shots=row["shots"], seed=row["seed"]).rows
        every = np.concatenate(
            [draw_nested(LABELS, LABELS.max() + 1, shots=k, seed=row["seed"]).rows for k in SHOTS]
        )  # no support image of a seed is a query
        asked = np.setdiff1d(np.arange(len(LABELS)), every)
        predicted = CLASSIFIERS[name](features[kind][drawn], LABELS[drawn], features[kind][asked])
        assert row["value"] == pytest.approx(np.mean(predicted == LABELS[asked])) and row["queries"] == len(asked)


def test_finished_baselines_are_not_computed_again_and_can_be_switched_off(folder):
    first = run(folder, "resumed")
    units = {path: path.stat().st_mtime_ns for path in (folder / "resumed" / "evaluation" / "units").iterdir()}
    assert run(folder, "resumed") == first
    assert units == {path: path.stat().st_mtime_ns for path in units}
    assert not [row for row in run(folder, "none", baselines=()) if row["task"] == "baseline"]
    one = run(folder, "one", baselines=("raw_pixels",))
    assert {row["method"].partition(":")[0] for row in one if row["task"] == "baseline"} == {"raw_pixels"}
    with pytest.raises(ValueError, match="raw_pixels, untrained"):
        settings(folder, baselines=("pixels",))
    assert EvaluationInTraining(settings(folder), folder).settings.baselines == ()


def test_the_random_weights_do_not_depend_on_those_of_the_checkpoint(folder):
    one, other, trained = UntrainedEncoder(folder / "a"), UntrainedEncoder(folder / "b"), Encoder(folder / "a")
    pictures = [np.full((8, 8, 3), level, np.uint8) for level in (0, 90, 255)]
    np.testing.assert_array_equal(one.embed_images(pictures), other.embed_images(pictures))
    assert np.abs(one.embed_images(pictures) - trained.embed_images(pictures)).max() > 1e-3
    assert one.image_fingerprint == other.image_fingerprint != trained.image_fingerprint


def test_the_report_shows_them_in_grey_once_and_never_as_the_best(folder):
    with logged() as said:
        run(folder, "report", checkpoints=("a", "b"))
    assert any("a, things, baseline raw_pixels: class means" in line for line in said)
    page = write_report(read_runs(folder / "report"), folder / "report", title="t").read_text()
    assert page.count('class="grey left">raw pixels: class means<') == 1
    assert page.count('class="grey left">untrained: nearest neighbour (a)<') == 1  # that of b is the same
    assert "things: without pretraining, " in page and "#8d929c" in page
    summary = (folder / "report" / "tables" / "summary.csv").read_text().splitlines()
    assert summary[0].endswith(",raw pixels,untrained") and summary[1].count("±") + summary[1].count("(") >= 3
    table = (folder / "report" / "tables" / "few_shot_things.md").read_text()
    grey = [line for line in table.splitlines() if "raw pixels" in line or "untrained" in line]
    assert len(grey) == 4 and not any("**" in line for line in grey)

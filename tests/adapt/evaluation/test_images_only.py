"""Evaluating a checkpoint that embeds images only: what is left out, and that the rest is as computed directly."""

import numpy as np
import pytest

import adapt
from adapt.embedding.encoder import Encoder
from adapt.evaluation.run import EvaluateSettings, evaluate
from adapt.evaluation.sampling import draw_nested
from adapt.evaluation.tasks import NEED_TEXT, TASKS
from adapt.report.html_report import write_report
from adapt.report.results_index import read_runs
from data.pipeline.image_ops import decode
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, write_shard
from tests.logged import logged
from tests.models.tiny_models import images_only_checkpoint, tiny_checkpoint

SAMPLES = [(key, image, fields | {"texts": [f"thing {key}"]}) for key, image, fields in labelled(24)]
LABELS = np.array([fields["label"] for _, _, fields in SAMPLES])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return [str(write_shard(folder / f"{part}.tar", SAMPLES[start::2])) for start, part in enumerate(("known", "new"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "photos", images_only_checkpoint())


def settings(shards, **changes):
    things = {"support": shards[0], "query": shards[1]}
    return EvaluateSettings(
        datasets=("things",), custom_datasets={"things": things}, **{"shots": (1, 2), "seeds": 2} | changes
    )


@pytest.fixture(scope="module")
def evaluated(folder, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    chosen = settings(
        shards,
        tasks=tuple(task for task in TASKS if task != "linear_probe"),
        transfer_from="things",
        retrieval=(shards[0],),
        methods=("prototypes", "zero_shot", "ape"),
    )
    with logged() as messages:
        rows = evaluate({"photos": folder}, chosen, out=out / "evaluation", data_dir=out)
    return rows, messages, out


@pytest.mark.parametrize("task", NEED_TEXT)
def test_a_task_that_needs_texts_is_left_out_with_a_line(evaluated, task):
    rows, messages, _ = evaluated
    line = f"note: photos embeds images only: task {task}, which needs class texts, is left out"
    assert messages.count(line) == 1 and task not in {row["task"] for row in rows}


def test_retrieval_and_methods_that_need_texts_are_left_out_with_a_line(evaluated):
    rows, messages, _ = evaluated
    assert "note: photos embeds images only: retrieval, which needs texts, is left out" in messages
    assert "note: photos embeds images only: zero_shot, ape, which need class texts, are left out" in messages
    found = {row["method"] for row in rows if row["task"] != "baseline"}
    assert found == {"prototypes"} and {row["task"] for row in rows} == {"few_shot", "baseline"}


def test_baselines_are_those_of_its_own_tower(evaluated):
    rows, _, _ = evaluated
    methods = {row["method"].partition(":")[0] for row in rows if row["task"] == "baseline"}
    assert methods == {"raw_pixels", "untrained"}


def test_accuracies_are_those_of_the_adapter_without_texts(evaluated, folder):
    rows, _, _ = evaluated
    encoder = Encoder(folder)
    support, queries = (
        encoder.embed_images([np.asarray(decode(image, key)) for key, image, _ in SAMPLES[start::2]])
        for start in range(2)
    )
    for row in (row for row in rows if row["shots"] == 1 and row["task"] == "few_shot"):
        drawn = draw_nested(LABELS[::2], 3, shots=1, seed=row["seed"], keep=0).rows
        classifier = adapt.create("prototypes").fit(support[drawn], LABELS[::2][drawn], num_classes=3)
        predicted = np.asarray(classifier(queries)).argmax(axis=1)
        assert row["value"] == pytest.approx((predicted == LABELS[1::2]).mean())


def test_the_report_can_be_written(evaluated, tmp_path):
    _, _, out = evaluated
    page = write_report(read_runs(out), tmp_path, title="photos")
    assert "prototypes" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_checkpoints_with_and_without_texts_are_evaluated_together(folder, shards, tmp_path):
    both = {"photos": folder, "both": save_checkpoint(tmp_path / "both", tiny_checkpoint("siglip"))}
    chosen = settings(shards, methods=("prototypes",), baselines=())
    rows = evaluate(both, chosen, out=tmp_path / "out", data_dir=tmp_path)
    found = {(row["checkpoint"], row["task"]) for row in rows}
    assert found == {("photos", "few_shot"), ("both", "few_shot"), ("both", "zero_shot")}

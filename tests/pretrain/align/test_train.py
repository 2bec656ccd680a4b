"""Alignment equals pretraining with frozen towers, resumes to the same bits, and gives the same on many devices."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import pretrain.align.train as align_train
from models.checkpoints.io import open_checkpoint, save_checkpoint
from models.towers import create_model
from pretrain.align.train import align
from pretrain.checkpointing.manager import restore_parameters
from pretrain.config.run import read_settings
from pretrain.input_pipeline import create_loader, open_data, prepare_tokenizer
from pretrain.monitoring.metric_writer import read_metrics
from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint
from tests.pretrain.align.tiny import IMAGES, align_config, captions_config, write_features
from tests.pretrain.test_train import fail_at
from tests.pretrain.tiny import config, metrics_without_times, same_parameters

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    path = tmp_path_factory.mktemp("captions") / "captions.jsonl"
    words = ["red", "blue", "green", "fish", "bird", "tree"]
    rows = [{"captions": [f"{words[i % 6]} {words[i % 4]}", f"a {words[i % 5]}"][: 1 + i % 2]} for i in range(IMAGES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def finished(features, tmp_path_factory):
    """A run without interruptions."""
    workdir = tmp_path_factory.mktemp("run")
    align(align_config(features), workdir, data_dir=workdir)
    return workdir


def test_the_same_seed_gives_bitwise_the_same_parameters(features, finished, tmp_path):
    align(align_config(features), tmp_path / "same", data_dir=tmp_path)
    assert same_parameters(finished, tmp_path / "same")
    assert metrics_without_times(finished) == metrics_without_times(tmp_path / "same")
    align(align_config(features, seed=1), tmp_path / "other", data_dir=tmp_path)
    assert not same_parameters(finished, tmp_path / "other")


@pytest.mark.parametrize("texts", ["features", "captions"])
def test_a_failed_run_resumes_to_the_same_bits(features, captions, finished, tmp_path, monkeypatch, texts):
    if texts == "features":
        values, whole = align_config(features), finished
    else:
        values, whole = captions_config(features, captions), tmp_path / "whole"
        align(values, whole, data_dir=tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr("pretrain.loop.check_loss", fail_at(6))
        with pytest.raises(OSError, match="it broke"):
            align(values, tmp_path / "broken", data_dir=tmp_path)
    result = align(values, tmp_path / "broken", data_dir=tmp_path)
    assert (result.start_step, result.step) == (4, 9)
    assert same_parameters(whole, tmp_path / "broken")
    assert metrics_without_times(whole) == metrics_without_times(tmp_path / "broken")


@pytest.mark.parametrize(("deviation", "normalize"), [("shared", False), ("each", False), ("shared", True)])
def test_statistics_of_the_features_are_stored_and_not_trained(features, tmp_path, deviation, normalize):
    head = {"deviation": deviation, "normalize": normalize}
    values = align_config(features, image_head=head, text_head=head, steps=3)
    align(values, tmp_path, data_dir=tmp_path)
    _, parameters = restore_parameters(tmp_path / "checkpoints")
    for side, name in (("vision", "images"), ("text", "texts")):
        rows = np.load(features / f"{name}.npy").astype(np.float64)
        if normalize:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        expected = rows.std(0) if deviation == "each" else np.sqrt(rows.var(0).mean())
        np.testing.assert_allclose(parameters["model"][side]["mean"], rows.mean(0), rtol=1e-5, atol=1e-7)
        stored = parameters["model"][side]["deviation"]
        np.testing.assert_allclose(stored, np.broadcast_to(expected, stored.shape), rtol=1e-5)


def test_training_reduces_the_loss(features, tmp_path):
    align(align_config(features, steps=60, log_every=20), tmp_path, data_dir=tmp_path)
    losses = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0] / 2


def test_microbatches_give_the_same_parameters(features, finished, tmp_path):
    align(align_config(features, microbatch_size=4), tmp_path, data_dir=tmp_path)
    assert_close(finished, tmp_path, 1e-5)


def test_a_batch_may_be_the_whole_set_but_not_more(features, tmp_path):
    assert align(align_config(features, batch_size=IMAGES, steps=2), tmp_path / "a", data_dir=tmp_path).step == 2
    with pytest.raises(ValueError, match=r"batch_size is 32, but there are 24 images with texts"):
        align(align_config(features, batch_size=32), tmp_path / "b", data_dir=tmp_path)
    assert not (tmp_path / "b").exists()


def test_a_run_does_not_resume_with_other_features_or_as_another_job(features, finished, tmp_path):
    other = write_features(tmp_path, seed=1)
    changed = align_config(features, text_features=(str(other),))
    with pytest.raises(ValueError, match=r"text_features = .*add --data_moved"):
        align(changed, finished, data_dir=tmp_path)
    shards = str(write_shard(tmp_path / "s.tar", labelled(9)))
    with pytest.raises(ValueError, match=r"contains a run of `align`. Use another --workdir for `pretrain`"):
        pretrain(config(shards), finished, data_dir=tmp_path)


def test_eight_devices_give_the_parameters_of_one(features, finished, tmp_path):
    program = (
        "import sys, jax; from pretrain.align.train import align; from tests.pretrain.align.tiny import align_config\n"
        "assert jax.device_count() == 8; align(align_config(sys.argv[1]), sys.argv[2], data_dir=sys.argv[2])"
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", program, str(features), str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags})
    assert_close(finished, tmp_path / "run", 1e-5)


def assert_close(one: pathlib.Path, other: pathlib.Path, tolerance: float) -> None:
    """Assert that the newest parameters of two runs differ by rounding at most."""
    a, b = (restore_parameters(workdir / "checkpoints")[1] for workdir in (one, other))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance), a, b)


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
def test_linear_heads_learn_what_pretraining_teaches_the_projections_of_frozen_towers(base, tmp_path, monkeypatch):
    """With everything but the projections frozen, their inputs are constants, which `align` reads from a file."""
    start = save_checkpoint(tmp_path / "clip", sensitive_checkpoint())
    shards = str(write_shard(tmp_path / "s.tar", different_samples(21)))
    shared = {
        "steps": 50,
        "batch_size": 8,
        "objective": {"base": base, "context": True, "logit_scale": 5.0, "logit_bias": -3.0},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 5, "weight_decay": 1e-2},
    }
    frozen = shared["optimizer"] | {"frozen": (r"^model/vision/(?!projection)", r"^model/text/(?!head)")}
    values = config(
        shards,
        **shared | {"optimizer": frozen},
        initial_checkpoint=str(start),
        data={"sources": (shards,), "caption": "first"},
        augmentation={"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0)},
    )
    for name in ("vision", "text", "tokenizer"):
        del values[name]
    pretrain(values, tmp_path / "pretrain", data_dir=tmp_path)

    checkpoint = open_checkpoint(start)
    settings = read_settings(values)
    source = open_data(settings, tmp_path)
    tokenizer = prepare_tokenizer(tmp_path / "tokenizer", source, settings)
    loader = create_loader(settings, source, tokenizer)
    batches = [loader.rows(step, range(8)) | {"ids": loader.sampler.sample_ids(step)} for step in range(6)]
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in ("images", "tokens", "ids")}
    first = np.unique(rows["ids"], return_index=True)[1]
    assert len(first) == 21
    (tmp_path / "features").mkdir()
    for name, features in before_projections(checkpoint, rows["images"][first], rows["tokens"][first]).items():
        np.save(tmp_path / "features" / f"{name}.npy", features)
    heads = {"vision": checkpoint.parameters["vision"]["projection"], "text": checkpoint.parameters["text"]["head"]}
    made = align_train.initialize

    def initialize(step, data):
        state = made(step, data)
        model = jax.tree.map(
            lambda new, leaf: jax.device_put(np.asarray(new), leaf.sharding),
            {side: {"linear": {"kernel": head["kernel"]}} for side, head in heads.items()},
            state.parameters["model"],
        )
        return state._replace(parameters=state.parameters | {"model": model})

    monkeypatch.setattr("pretrain.align.train.initialize", initialize)
    linear = {"kind": "linear", "bias": False, "standardize": False}
    dim = checkpoint.settings.dim
    aligned = align_config(tmp_path / "features", **shared, dim=dim, image_head=linear, text_head=linear)
    align(aligned, tmp_path / "align", data_dir=tmp_path)

    (_, ours), (_, theirs) = (restore_parameters(tmp_path / name / "checkpoints") for name in ("align", "pretrain"))
    theirs = {"vision": theirs["model"]["vision"]["projection"], "text": theirs["model"]["text"]["head"]} | {
        "objective": theirs["objective"]
    }
    ours = {side: ours["model"][side]["linear"] for side in ("vision", "text")} | {"objective": ours["objective"]}
    assert np.abs(ours["vision"]["kernel"] - heads["vision"]["kernel"]).max() > 0.05  # it was trained
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def sensitive_checkpoint():
    """Return a CLIP whose embeddings differ much: where all are alike, gradients are rounding, which Adam enlarges."""
    checkpoint = tiny_checkpoint("clip")
    parameters = {side: dict(checkpoint.parameters[side]) for side in ("vision", "text")}
    for tower in parameters.values():
        width = len(tower["encoder"]["norm"]["scale"])
        norm = {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
        tower["encoder"] = dict(tower["encoder"]) | {"norm": norm}
    for name in ("class_embedding", "position_embedding"):  # the same for all images
        parameters["vision"][name] = parameters["vision"][name] * 0.1
    return checkpoint._replace(parameters=parameters)


def different_samples(count: int):
    """Return samples whose captions have other tokens each, of the words that the checkpoint knows."""
    words = ["red", "fish", "two", "blue", "birds", "green", "tree"]
    texts = [f"{words[i % 7]} {words[i // 7]} {words[i % 5]}" for i in range(count)]
    return [
        (key, image, {"texts": [text]})
        for (key, image, _), text in zip(labelled(count, size=(14, 14)), texts, strict=True)
    ]


def before_projections(checkpoint, images, tokens):
    """Return the features that the projections get, from towers whose projections are the identity."""
    vision, text = checkpoint.settings.vision, checkpoint.settings.text
    identities = {
        side: dict(checkpoint.parameters[side]) | {name: {"kernel": np.eye(width, dtype=np.float32)}}
        for side, name, width in (("vision", "projection", vision.width), ("text", "head", text.width))
    }

    def model(width):
        return create_model(
            dataclasses.replace(checkpoint.settings, vision=dataclasses.replace(vision, projection=width))
        )

    pixels = checkpoint.preprocessing.normalize(images)
    return {
        "images": np.asarray(model(vision.width).embed_images(identities, pixels)),
        "texts": np.asarray(model(text.width).embed_texts(identities, tokens)),
    }

"""Runs that start from a SigLIP or CLIP checkpoint, or from towers of a published size."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from models.checkpoints.io import open_checkpoint, save_checkpoint
from models.checkpoints.weight_map import flatten
from pretrain.checkpointing.export import export
from pretrain.config.run import load_settings, read_settings
from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint
from tests.pretrain.tiny import config

ROOT = pathlib.Path(__file__).parents[3]
MEAN = (0.4, 0.5, 0.6)
STILL = {"learning_rate": 0.0, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(write_shard(tmp_path_factory.mktemp("data") / "s.tar", labelled(21)))


STARTS = {
    "siglip": ({}, "sigmoid"),
    "clip": ({}, "softmax"),
    "siglip naflex": ({"vision": {"image_size": 15, "max_patches": 12}}, "sigmoid"),
}


@pytest.fixture(scope="module", params=STARTS)
def start(request, tmp_path_factory):
    """A checkpoint of one family, and its base loss."""
    changes, base = STARTS[request.param]
    checkpoint = tiny_checkpoint(request.param.split()[0], mean=MEAN, **changes)
    return save_checkpoint(tmp_path_factory.mktemp(request.param.replace(" ", "_")) / "export", checkpoint), base


def continuing(checkpoint, shards, base="sigmoid", **changes):
    """Return the config of a run that continues a checkpoint, without towers and tokenizer."""
    values = config(shards, steps=2, initial_checkpoint=str(checkpoint), objective={"base": base}, **changes)
    del values["vision"], values["text"], values["tokenizer"]
    return values


@pytest.mark.slow
def test_a_run_without_updates_exports_the_initial_weights_bit_for_bit(start, shards, tmp_path):
    checkpoint, base = start
    pretrain(continuing(checkpoint, shards, base, optimizer=STILL), tmp_path, data_dir=tmp_path)
    folder = export(tmp_path, tmp_path / "export", license="apache-2.0")
    before, after = (load_file(path / "model.safetensors") for path in (checkpoint, folder))
    scalars = {name for name in before if name.startswith("logit_")}
    assert set(before) == set(after)
    assert all(before[name].tobytes() == after[name].tobytes() for name in set(before) - scalars)
    for name in scalars:  # the config has their exponentials
        np.testing.assert_allclose(before[name], after[name], rtol=1e-6)
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        assert json.loads((checkpoint / name).read_text()) == json.loads((folder / name).read_text()), name
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card and "context objective" in card and "s.tar: 21 samples" in card


@pytest.mark.slow
def test_training_changes_both_towers_and_logs_the_initial_checkpoint(start, shards, tmp_path, capsys):
    checkpoint, base = start
    pretrain(continuing(checkpoint, shards, base), tmp_path, data_dir=tmp_path)
    bias = -3.5 if base == "sigmoid" else -10
    assert f"starting from {checkpoint}: logit_scale 12.18, logit_bias {bias}" in capsys.readouterr().out
    before = dict(flatten(open_checkpoint(checkpoint).parameters))
    after = dict(flatten(open_checkpoint(export(tmp_path, tmp_path / "export")).parameters))
    for tower in ("vision", "text"):
        path = f"{tower}/encoder/layers/mlp/up/kernel"
        assert not np.array_equal(before[path], after[path])
        assert np.abs(before[path] - after[path]).max() < 0.1


@pytest.mark.slow
def test_a_logit_bias_in_the_config_replaces_the_checkpoints_and_is_logged(shards, tmp_path, capsys):
    folder = save_checkpoint(tmp_path / "start", tiny_checkpoint("siglip"))
    values = continuing(folder, shards)
    values["objective"] |= {"logit_bias": -4.0}
    pretrain(values, tmp_path / "run", data_dir=tmp_path)
    output = capsys.readouterr().out
    assert "logit_scale 12.18, logit_bias -4" in output
    assert "the checkpoint's logit_bias is -3.5; objective.logit_bias of the config is used instead" in output


@pytest.mark.slow
@pytest.mark.parametrize("start", ["clip"], indirect=True)
def test_images_of_another_size_continue_with_resampled_positions(start, shards, tmp_path, capsys):
    checkpoint, base = start
    values = continuing(checkpoint, shards, base, optimizer=STILL) | {"vision": {"image_size": 27}}
    pretrain(values, tmp_path, data_dir=tmp_path)
    assert "position embeddings of 2 × 2 patches resampled to 5 × 5" in capsys.readouterr().out
    expected = open_checkpoint(checkpoint, image_size=27)
    opened = open_checkpoint(export(tmp_path, tmp_path / "export"))
    assert opened.settings == expected.settings and opened.preprocessing == expected.preprocessing
    exported, resampled = dict(flatten(opened.parameters)), dict(flatten(expected.parameters))
    assert set(exported) == set(resampled)
    assert all(np.array_equal(exported[path], resampled[path]) for path in exported)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["siglip"], indirect=True)
def test_a_run_resumes_without_its_initial_checkpoint(start, shards, tmp_path):
    checkpoint = pathlib.Path(shutil.copytree(start[0], tmp_path / "given"))
    values = continuing(checkpoint, shards, start[1])
    pretrain(values, tmp_path / "whole", data_dir=tmp_path)
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(checkpoint)
    assert read_settings(values, tmp_path / "half") == load_settings(tmp_path / "half")
    assert pretrain(values, tmp_path / "half", data_dir=tmp_path).step == 2
    with pytest.raises(FileNotFoundError, match=r"given is not a checkpoint"):
        pretrain(values, tmp_path / "new", data_dir=tmp_path)


@pytest.mark.parametrize("start", ["siglip naflex"], indirect=True)
def test_variable_resolution_is_kept_unless_only_the_image_size_is_set(start, shards):
    def vision(**changes):
        settings = read_settings(continuing(start[0], shards) | {"vision": changes})
        assert settings.image_preprocessing().shape == settings.vision.image_shape
        return settings.vision.image_size, settings.vision.max_patches

    assert vision() == (15, 12)
    assert vision(max_patches=30) == (15, 30)
    assert vision(image_size=20, max_patches=30) == (20, 30)
    assert vision(image_size=20) == (20, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision": {"width": 32}}, r"vision.width is 32 in the config, but 24 in .*Remove it"),
        ({"text": {"length": 64}}, r"text.length is 64 in the config, but 9 in"),
        ({"variant": "B/16"}, r"vision.width is 768 in the config, but 24 in"),
        ({"vision": {"hight": 3}}, r"unknown key vision.hight"),
        (
            {"tokenizer": {"name": "train:60"}},
            r"tokenizer.name 'train:60' would train new token ids, but the text tower of .* Set it to",
        ),
        (
            {"preprocessing": {"size": (16, 16)}},
            r"preprocessing makes images of \(16, 16\) pixels, but vision.image_size",
        ),
        ({"initial_checkpoint": "./nowhere"}, r"./nowhere is not a checkpoint"),
    ],
)
def test_settings_that_contradict_the_checkpoint_are_errors(tmp_path_factory, changes, message):
    folder = save_checkpoint(tmp_path_factory.mktemp("siglip") / "export", tiny_checkpoint("siglip"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_settings(continuing(folder, "none.tar") | changes)


def test_towers_come_from_family_and_variant_with_changes_by_the_config():
    base = config("none.tar")
    named = {"family": "clip", "variant": "B/32", "vision": {"image_size": 64, "depth": 2}, "text": {"length": 20}}
    model = read_settings(base | named).model(vocab_size=99, end_id=7)
    assert (model.vision.width, model.vision.depth, model.vision.pooling, model.dim) == (768, 2, "class", 512)
    assert (model.text.width, model.text.causal, model.text.end_id) == (512, True, 7)
    with pytest.raises(ValueError, match=r"unknown family 'blip'\. Did you mean 'clip'\? Known: siglip, clip"):
        read_settings(base | {"family": "blip"})
    with pytest.raises(ValueError, match=r"text.vocab_size is 50, but the tokenizer has 99 token ids"):
        read_settings(base | {"text": {**base["text"], "vocab_size": 50}}).model(vocab_size=99)


def test_pooling_by_the_end_token_needs_a_tokenizer_that_ends_texts():
    from models.text.tokenizer import Tokenizer
    from tests.models.tokenizer_families import FAMILIES

    settings = read_settings(config("none.tar", family="clip"))
    assert settings.model_for(Tokenizer(FAMILIES["clip"](), length=6)).text.end_id is not None
    with pytest.raises(ValueError, match=r"text.pooling is 'end', but the tokenizer does not end truncated texts"):
        settings.model_for(Tokenizer(FAMILIES["gpt2"](), length=6))


@pytest.mark.slow
def test_a_clip_model_is_trained_from_scratch_and_exported(shards, tmp_path):
    towers = {"vision": {**config("")["vision"], "projection": 12}}
    values = config(shards, steps=3, family="clip", objective={"base": "softmax"}, **towers)
    pretrain(values, tmp_path, data_dir=tmp_path)
    opened = open_checkpoint(export(tmp_path, tmp_path / "export"))
    assert json.loads((tmp_path / "export" / "config.json").read_text())["architectures"] == ["CLIPModel"]
    assert opened.settings.text.end_id == opened.tokenizer.end_id and opened.settings.dim == 12
    with pytest.raises(ValueError, match=r"npz format of big_vision holds only SigLIP towers, and this is a CLIP"):
        export(tmp_path, tmp_path / "export.npz", format="big_vision")
    with pytest.raises(ValueError, match=r"unknown format 'onnx'\. Known: huggingface, big_vision"):
        export(tmp_path, tmp_path / "export.onnx", format="onnx")


START_ON_EIGHT = """
import sys
import jax
from pretrain.train import pretrain
from tests.pretrain.config.test_initialization import STILL, continuing
assert jax.device_count() == 8
placed = {"fsdp": 4, "rules": (("token_embedding$", (None, "fsdp")),)}
values = continuing(sys.argv[1], sys.argv[2], optimizer=STILL, batch_size=16, microbatch_size=8, mesh=placed)
pretrain(values, sys.argv[3], data_dir=sys.argv[3])
"""


@pytest.mark.slow
def test_a_checkpoint_is_read_sharded_onto_eight_devices(shards, tmp_path):
    start = save_checkpoint(tmp_path / "start", tiny_checkpoint("siglip", vision={"patch_size": 4}))
    run_on_eight(START_ON_EIGHT, start, shards, tmp_path / "run")
    before, after = (
        load_file(path / "model.safetensors") for path in (start, export(tmp_path / "run", tmp_path / "e"))
    )
    towers = {name for name in before if not name.startswith("logit_")}
    assert all(before[name].tobytes() == after[name].tobytes() for name in towers)


def run_on_eight(code, *arguments):
    """Run a program on eight fake devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags})
    assert result.returncode == 0, result.stderr


ON_EIGHT = """
import sys
import numpy as np
import jax
from models.checkpoints.weight_map import flatten
from pretrain import loop
from pretrain.train import pretrain
from tests.pretrain.config.test_initialization import eight
saved = loop.Checkpoints.save
def save(self, state):
    np.savez(sys.argv[2] + "/state.npz", **dict(flatten(jax.device_get(state.parameters))))
    saved(self, state)
loop.Checkpoints.save = save
assert jax.device_count() == 8
pretrain(eight(sys.argv[1]), sys.argv[2], data_dir=sys.argv[2])
"""


def eight(shards):
    """Return the config of a run on eight devices, with gradient caching and sharded parameters."""
    return config(shards, steps=3, batch_size=16, microbatch_size=8, mesh={"fsdp": 4}, checkpoint_every=9)


@pytest.mark.slow
def test_a_run_on_eight_devices_exports_the_same_bytes_as_its_parameters_on_one_device(shards, tmp_path):
    run_on_eight(ON_EIGHT, shards, tmp_path)
    assert jax.device_count() == 1
    opened = open_checkpoint(export(tmp_path, tmp_path / "export"))
    held = np.load(tmp_path / "state.npz")
    towers = {name.removeprefix("model/"): held[name] for name in held.files if name.startswith("model/")}
    scalars = {name: float(held[f"objective/{name}"]) for name in ("logit_scale", "logit_bias")}
    parameters: dict = {}
    for path, array in towers.items():
        tree = parameters
        for key in path.split("/")[:-1]:
            tree = tree.setdefault(key, {})
        tree[path.split("/")[-1]] = array
    again = save_checkpoint(tmp_path / "again", opened._replace(parameters=parameters, scalars=scalars))
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (tmp_path / "export", again))
    assert one == other

"""Checkpoints that embed images only: saving, opening, and files that cannot be."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import launch
from models.checkpoints.big_vision import save_big_vision
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.huggingface import family_of
from models.checkpoints.io import open_checkpoint, save_checkpoint
from models.checkpoints.weight_map import flatten
from models.towers import create_model
from tests.models.tiny_models import images_only_checkpoint, tiny_images_only


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path / "photos", images_only_checkpoint())


def change(folder, **changes):
    """Change fields of the config; None removes one."""
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_saved_checkpoint_opens_with_the_same_settings_and_weights(tmp_path, dtype):
    checkpoint = images_only_checkpoint()
    folder = save_checkpoint(tmp_path / "photos", checkpoint, dtype=dtype)
    opened = open_checkpoint(folder)
    assert (opened.settings, opened.preprocessing) == (checkpoint.settings, checkpoint.preprocessing)
    assert (opened.scalars, opened.tokenizer, opened.dtype) == ({}, None, dtype)
    ours, theirs = dict(flatten(opened.parameters)), dict(flatten(checkpoint.parameters))
    assert set(ours) == set(theirs)
    for path, array in ours.items():
        np.testing.assert_allclose(array, theirs[path], rtol={"float32": 0, "float16": 1e-3, "bfloat16": 1e-2}[dtype])
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "SHA256SUMS",
    }


def test_tensors_have_the_names_and_shapes_of_the_parameters(saved):
    tensors = load_file(saved / "model.safetensors")
    assert tensors["stem.kernel"].shape == (3, 3, 3, 4) and tensors["block_1.depthwise.kernel"].shape == (5, 5, 10)
    assert tensors["block_1.expand.kernel"].shape == (5, 10) and "block_0.expand.kernel" not in tensors
    assert tensors["head.kernel"].shape == (6, 12)


def test_any_image_size_opens_and_weights_stay_the_same(saved):
    described = describe_checkpoint(saved, image_size=31)
    assert described.format == "efficientnet" and described.preprocessing.shape == (31, 31)
    parameters = described.read()
    embed = create_model(described.settings).embed_images
    assert jax.eval_shape(embed, parameters, np.zeros((2, 31, 31, 3), np.float32)).shape == (2, 12)


def test_a_checkpoint_is_written_again_over_one_with_a_card_and_a_license(saved):
    (saved / "LICENSE").write_text("terms")
    save_checkpoint(saved, images_only_checkpoint(seed=1), card="a card")
    assert (saved / "README.md").read_text() == "a card"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stages": None}, "stages is None; it must be a list of stages"),
        ({"stages": []}, r"stages is \[\]"),
        ({"stages": [{"kernel_size": 3}]}, r"the config lacks stages\[0\]\.stride"),
        ({"stages": ["wide"]}, r"stages\[0\] is 'wide'; it must be a section of settings"),
        (
            {"stages": [{"kernel_size": 3, "stride": 1, "expansion": 1, "width": 5, "repeats": 10**12}]},
            "the config has 1,000,000,000,000 blocks, but the file has only",
        ),
        ({"stem_width": "4"}, "config.stem_width is '4'"),
        ({"depth": 3}, "unknown key config.depth"),
        ({"width": 13}, r"head.kernel has shape \[6, 12\] instead of \[6, 13\]"),
        ({"image_size": 16}, "preprocessing gives images of 15 × 15 pixels, but the image tower takes 16 × 16"),
        ({"model_type": "efficientnet"}, "model_type 'efficientnet' is not supported. Supported: .*efficientnet_lite"),
    ],
)
def test_a_config_that_does_not_fit_ends_in_a_sentence(saved, changes, problem):
    (saved / "SHA256SUMS").unlink()
    change(saved, **changes)
    with pytest.raises(ValueError, match=problem):
        describe_checkpoint(saved)


def test_missing_weights_are_named(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"it has no model\.safetensors"):
        describe_checkpoint(saved)


def test_damaged_weights_are_refused(saved):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="SHA256SUMS"):
        describe_checkpoint(saved).read()


@pytest.mark.parametrize("options", [{"tokenizer": "some/folder"}, {"canonicalize": "lower"}])
def test_options_about_texts_are_refused(saved, options):
    with pytest.raises(ValueError, match="photos embeds images only: it has no text tower"):
        open_checkpoint(saved, **options)


def test_other_formats_cannot_hold_it(saved, tmp_path):
    with pytest.raises(ValueError, match=r"embeds images only, so neither SiglipModel, CLIPModel nor an \.npz"):
        family_of(tiny_images_only())
    checkpoint = images_only_checkpoint()
    with pytest.raises(ValueError, match="embeds images only"):
        save_big_vision(tmp_path / "x.npz", checkpoint.settings, parameters=checkpoint.parameters, scalars={})
    assert launch.main(["convert", f"--checkpoint={saved}", f"--out={tmp_path / 'x.npz'}"]) != 0
    assert not (tmp_path / "x.npz").exists()


def test_convert_copies_it_to_a_folder_for_another_image_size(saved, tmp_path):
    out = tmp_path / "small"
    assert launch.main(["convert", f"--checkpoint={saved}", f"--out={out}", "--image_size=9"]) == 0
    described = describe_checkpoint(out)
    assert described.settings.vision.image_size == (9, 9) or described.settings.vision.image_size == 9
    assert described.preprocessing.shape == (9, 9)

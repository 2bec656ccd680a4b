"""SigLIP 2 checkpoints of variable resolution (NaFlex): opened, changed in size and saved."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jobs.checkpoints import convert
from models.checkpoints.describe import POSITIONS, describe_checkpoint
from models.checkpoints.io import open_checkpoint, save_checkpoint
from models.checkpoints.weight_map import get_path
from models.naflex import resize_positions
from models.preprocessing import BICUBIC, BILINEAR, PREPROCESSOR_FILE
from tests.logged import logged
from tests.models.tiny_models import tiny_checkpoint

MEAN = (0.4, 0.5, 0.6)


@pytest.fixture(scope="module")
def naflex(tmp_path_factory):
    """Return a NaFlex for up to 12 patches of 5 pixels, with position embeddings of 3 × 3, and its folder."""
    checkpoint = tiny_checkpoint("siglip", mean=MEAN, vision={"image_size": 15, "max_patches": 12})
    return save_checkpoint(tmp_path_factory.mktemp("naflex") / "model", checkpoint), checkpoint


def changed(folder, target, **fields):
    """Copy the image processor of a folder with other fields; None removes one."""
    path = folder / PREPROCESSOR_FILE
    fields = {key: value for key, value in (json.loads(path.read_text()) | fields).items() if value is not None}
    target.mkdir()
    for each in folder.iterdir():
        if each.name not in (PREPROCESSOR_FILE, "SHA256SUMS"):
            (target / each.name).symlink_to(each)
    (target / PREPROCESSOR_FILE).write_text(json.dumps(fields))
    return target


def test_saved_checkpoint_opens_with_all_that_it_holds_and_saves_the_same_files(naflex, tmp_path):
    folder, saved = naflex
    config, processor = (json.loads((folder / name).read_text()) for name in ("config.json", PREPROCESSOR_FILE))
    assert config["architectures"] == ["Siglip2Model"] and config["vision_config"]["num_patches"] == 9
    assert "image_size" not in config["vision_config"]
    assert processor["image_processor_type"] == "Siglip2ImageProcessor"
    assert (processor["patch_size"], processor["max_num_patches"], processor["image_mean"]) == (5, 12, list(MEAN))
    opened = open_checkpoint(folder)
    assert opened.settings == saved.settings and opened.settings.vision.max_patches == 12
    assert opened.preprocessing == saved.preprocessing and opened.scalars == saved.scalars
    jax.tree.map(np.testing.assert_array_equal, dict(opened.parameters), dict(saved.parameters))
    again = save_checkpoint(tmp_path / "again", opened)
    for name in ("config.json", PREPROCESSOR_FILE, "model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_number_of_patches_can_be_changed_and_is_saved(naflex, tmp_path):
    folder, saved = naflex
    convert(str(folder), out=tmp_path / "more", max_patches=30)
    opened = open_checkpoint(tmp_path / "more")
    assert opened.settings.vision == dataclasses.replace(saved.settings.vision, max_patches=30)
    jax.tree.map(np.testing.assert_array_equal, dict(opened.parameters), dict(saved.parameters))


def test_image_size_makes_a_fixed_resolution_with_positions_resized_as_for_an_image(naflex, tmp_path):
    folder, saved = naflex
    with logged() as messages:
        convert(str(folder), out=tmp_path / "fixed", image_size=25)
    assert "position embeddings of 3 × 3 patches resampled to 5 × 5" in messages[0]
    assert messages[1].endswith("images are resized to 25 × 25 pixels; without image_size they keep their aspect")
    fixed = open_checkpoint(tmp_path / "fixed")
    assert fixed.settings.vision.max_patches is None and fixed.settings.vision.image_size == 25
    assert json.loads((tmp_path / "fixed" / "config.json").read_text())["model_type"] == "siglip"
    table = get_path(saved.parameters, POSITIONS)
    expected = resize_positions(table, np.array([[5, 5]]), old=(3, 3), slots=25)[0]
    np.testing.assert_allclose(get_path(fixed.parameters, POSITIONS), expected, atol=1e-6)
    both = describe_checkpoint(folder, image_size=25, max_patches=20).settings.vision  # as training has it
    assert (both.image_size, both.max_patches) == (25, 20)


def test_npz_of_big_vision_holds_either_form(naflex, tmp_path):
    folder, saved = naflex
    for name, size, most in (("naflex", {}, 256), ("fixed", {"image_size": 15}, None)):
        convert(str(folder), out=tmp_path / f"{name}.npz", **size)
        opened = describe_checkpoint(tmp_path / f"{name}.npz")
        expected = dataclasses.replace(saved.settings.vision, max_patches=most)  # the file does not store the number
        assert opened.settings.vision == expected
        assert opened.preprocessing.resample == (BILINEAR if most else BICUBIC)  # only a SigLIP 2 is a NaFlex
        jax.tree.map(np.testing.assert_array_equal, dict(opened.read()), dict(saved.parameters))
    with np.load(tmp_path / "naflex.npz") as arrays:
        assert arrays["params/img/embedding/kernel"].shape == (75, 24)
        assert arrays["params/img/pos_embedding"].shape == (3, 3, 24)
        damaged = dict(arrays)
    damaged["params/img/pos_embedding"] = np.zeros((9, 1, 24), np.float32)
    np.savez(tmp_path / "damaged.npz", **damaged)
    with pytest.raises(ValueError, match="9 patches of 5 × 5 × 3 do not form a square RGB image"):
        describe_checkpoint(tmp_path / "damaged.npz")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_processor_type": "SiglipImageProcessor"}, "image processor SiglipImageProcessor cannot prepare"),
        ({"patch_size": 16}, "patch_size is 16, but the image tower takes patches of 5 pixels"),
        ({"patch_size": None}, "patch_size is 16, but the image tower takes patches of 5 pixels"),
        ({"max_num_patches": 0}, "max_num_patches 0 must be a positive whole number"),
        ({"max_num_patches": "256"}, "max_num_patches '256' must be a positive whole number"),
        ({"do_resize": False}, "do_resize is False"),
        ({"image_std": [0, 1, 1]}, "must be positive"),
    ],
)
def test_processors_that_cannot_prepare_patches_are_rejected(naflex, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        describe_checkpoint(changed(naflex[0], tmp_path / "model", **fields))


def test_processor_without_optional_fields_has_the_defaults_of_its_class(naflex, tmp_path):
    missing = dict.fromkeys(("max_num_patches", "image_mean", "image_std", "resample", "rescale_factor"))
    found = describe_checkpoint(changed(naflex[0], tmp_path / "model", **missing))
    assert found.settings.vision.max_patches == 256
    assert (found.preprocessing.mean, found.preprocessing.resample) == ((0.5, 0.5, 0.5), 2)
    off = describe_checkpoint(changed(naflex[0], tmp_path / "off", do_rescale=False, do_normalize=False))
    assert (off.preprocessing.rescale, off.preprocessing.mean) == (1.0, (0.0, 0.0, 0.0))


def test_number_of_patches_of_a_fixed_resolution_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path / "fixed", tiny_checkpoint("siglip"))
    with pytest.raises(ValueError, match=r"takes images of one size, not up to max_patches 9 patches.*image_size"):
        describe_checkpoint(folder, max_patches=9)

"""Damaged weights are never read as if they were sound."""

import pathlib
import shutil

import numpy as np
import pytest

from foundation.files.checksum_file import SUMS_FILE, changed_files
from models.checkpoints.big_vision import save_big_vision
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.io import open_checkpoint, save_checkpoint
from tests.logged import logged
from tests.models.tiny_models import tiny_checkpoint


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Return the same weights as a folder and as an `.npz` file, with the file of the weights of each."""
    folder, checkpoint = tmp_path_factory.mktemp("exports"), tiny_checkpoint("siglip")
    save_checkpoint(folder / "export", checkpoint)
    save_big_vision(folder / "w.npz", checkpoint.settings, parameters=checkpoint.parameters, scalars=checkpoint.scalars)
    return folder


def zero_second_half(content):
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


def zero_block(content):
    start = len(content) * 2 // 3
    return content[:start] + bytes(512) + content[start + 512 :]


def flip_bit(content):
    middle = len(content) * 2 // 3
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [zero_second_half, zero_block, flip_bit, cut, lambda content: bytes(len(content))])
@pytest.mark.parametrize(("name", "weights"), [("export", "export/model.safetensors"), ("w.npz", "w.npz")])
def test_damaged_weights_raise(exports, tmp_path, name, weights, damage):
    copy = pathlib.Path(shutil.copytree(exports, tmp_path / "copy"))
    assert len(describe_checkpoint(copy / name).read()) > 0
    (copy / weights).write_bytes(damage((copy / weights).read_bytes()))
    with pytest.raises(ValueError, match=r"damaged|cannot be read|does not have the checksum"):
        describe_checkpoint(copy / name).read()


def test_the_message_says_how_to_skip_the_check(exports, tmp_path):
    copy = pathlib.Path(shutil.copytree(exports / "export", tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes(flip_bit((copy / "model.safetensors").read_bytes()))
    with pytest.raises(ValueError, match=r"does not have the checksum in SHA256SUMS.*remove .*SHA256SUMS to skip"):
        open_checkpoint(copy, tokenizer=str(copy))
    (copy / SUMS_FILE).unlink()
    open_checkpoint(copy)


def test_an_edited_config_opens_with_a_warning(exports, tmp_path):
    copy = pathlib.Path(shutil.copytree(exports / "export", tmp_path / "copy"))
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    (copy / "README.md").write_text("my own card")
    with logged() as messages:
        describe_checkpoint(copy).read()
    assert len(messages) == 1 and "config.json was changed after the export" in messages[0]


def test_every_file_of_an_export_but_the_card_is_listed(exports, tmp_path):
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint("clip"), card="# card\n")
    listed = {line.partition("  ")[2] for line in (folder / SUMS_FILE).read_text().splitlines()}
    assert listed == {path.name for path in folder.iterdir()} - {SUMS_FILE, "README.md"}
    assert changed_files(folder) == []
    assert save_checkpoint(folder, tiny_checkpoint("clip", seed=1)) == folder and changed_files(folder) == []


def test_other_tools_may_rewrite_the_weights_after_the_list_is_removed(exports, tmp_path):
    from safetensors.numpy import load_file, save_file

    copy = pathlib.Path(shutil.copytree(exports / "export", tmp_path / "copy"))
    tensors = {name: np.ascontiguousarray(array) for name, array in load_file(copy / "model.safetensors").items()}
    tensors["logit_scale"] = tensors["logit_scale"] + 1
    save_file(tensors, copy / "model.safetensors")
    (copy / SUMS_FILE).unlink()
    assert open_checkpoint(copy).scalars["logit_scale"] == tensors["logit_scale"].item()


def test_weights_that_the_list_does_not_name_are_reported(exports, tmp_path, said):
    copy = pathlib.Path(shutil.copytree(exports / "export", tmp_path / "copy"))
    lines = (copy / SUMS_FILE).read_text().splitlines(keepends=True)
    (copy / SUMS_FILE).write_text("".join(line for line in lines if "model.safetensors" not in line))
    describe_checkpoint(copy).read()
    assert any("does not list model.safetensors, which is therefore not checked" in line for line in said)

"""Damaged and hostile files are rejected with a one-line error, and no code of theirs runs."""

import json
import os
import pickle
import re
import shutil
import time
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from foundation.files.safe_json import read_json
from models.checkpoints.big_vision import save_big_vision
from models.checkpoints.big_vision import weight_map_for as npz_weight_map_for
from models.checkpoints.io import open_checkpoint, save_checkpoint
from models.checkpoints.weight_map import to_tensors
from tests.models.tiny_models import random_parameters, tiny, tiny_checkpoint
from tests.models.tokenizer_families import FAMILIES

SCALARS = {"logit_scale": 2.5, "logit_bias": -3.5}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = save_checkpoint(tmp_path_factory.mktemp("exported") / "siglip", tiny_checkpoint("siglip"))
    open_checkpoint(folder)  # the imports of opening a checkpoint take memory, too
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """An exported SigLIP that a test may damage."""
    return shutil.copytree(exported, tmp_path / "copy")


def check_rejected(folder, message, kind=ValueError):
    """Assert that opening fails with a one-line error and without allocating much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(kind, match=message) as error:
            open_checkpoint(folder)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


class Bomb:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "weights.pth", "last.ckpt"])
def test_pickles_are_rejected(copy, tmp_path, name):
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for path in (copy, copy / name):
        check_rejected(path, rf"{name} is a pickle file\. Opening a pickle can run arbitrary code")
    assert not (tmp_path / "ran").exists()


def test_npz_of_objects_is_rejected(tmp_path):
    objects = np.array([Bomb(tmp_path / "ran")], object)
    path = tmp_path / "bad.npz"
    np.savez(path, **{"params/img/embedding/kernel": objects})
    check_rejected(path, r"is a pickled array\. Opening a pickle can run arbitrary code")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("offsets", "shape"),
    [([0, 1 << 60], [1 << 58]), ([-8, 16], [6]), ([64, 16], [3]), ([0, 16], [1 << 40]), ([0, 16], [2])],
)
def test_header_with_invalid_offsets_is_rejected(copy, offsets, shape):
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    (copy / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    check_rejected(copy, r"model.safetensors is damaged \(")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_offsets": [4, 8]}, r"model.safetensors is damaged"),  # overlaps another tensor
        ({"dtype": "F128"}, r"model.safetensors is damaged|has unsupported dtype F128"),
        ({"dtype": "F8_E4M3"}, r"model.safetensors is damaged|has unsupported dtype F8_E4M3"),
        ({"shape": [10**15]}, r"model.safetensors is damaged"),
        ({"shape": [-1]}, r"model.safetensors is damaged"),
    ],
)
def test_header_with_one_invalid_tensor_is_rejected(copy, change, message):
    content = (copy / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["logit_bias"].update(change)
    forged = json.dumps(header).encode()
    (copy / "model.safetensors").write_bytes(len(forged).to_bytes(8, "little") + forged + content[8 + length :])
    check_rejected(copy, message)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]"]
)
def test_other_content_in_a_safetensors_file_is_rejected(copy, content):
    (copy / "model.safetensors").write_bytes(content)
    check_rejected(copy, r"model.safetensors is damaged \(")


def test_npz_with_sizes_beyond_the_file_is_rejected(tmp_path):
    path = tmp_path / "siglip.npz"
    square = tiny("siglip", vision={"image_size": 15})
    save_big_vision(path, square, parameters=random_parameters(square), scalars=SCALARS)
    whole = path.read_bytes()
    larger = whole.replace(b"'shape': (5, 5, 3, 24)", b"'shape': (5, 5, 3,1<<9", 1)
    for content in (
        larger,
        whole.replace(b"'shape': (5, 5, 3, 24)", b"'shape': (99,99,3, 24)", 1),
        whole[:-2000],
        b"PK",
    ):
        path.write_bytes(content)
        check_rejected(path, "siglip.npz cannot be read: ")
    np.savez_compressed(path, **{"params/img/embedding/kernel": np.zeros((1000, 1000))})
    check_rejected(path, r"is compressed or encrypted\. Write it with numpy.savez, which does neither")


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("vision_config", {"hidden_size": -24}, r"vision.width is -24; it must be a positive whole number"),
        ("vision_config", {"intermediate_size": 2 * 10**12}, r"the tensors do not match the config: .* and \d+ more"),
        (
            "vision_config",
            {"num_hidden_layers": 10**9},
            r"the config has 1,000,000,001 layers, but the file has only 88 tensors",
        ),
        ("vision_config", {"num_attention_heads": 0}, r"config.json: "),
        ("vision_config", {"patch_size": 0}, r"vision.patch_size is 0"),
        (
            "vision_config",
            {"image_size": 10**9},
            r"images of 14 × 14 pixels, but the image tower takes 10000",
        ),
        ("vision_config", {"hidden_act": "relu"}, r"hidden_act 'relu' is not supported"),
        ("vision_config", {"vision_use_head": False}, r"towers without a pooling head are not supported"),
        ("vision_config", {"layer_norm_eps": -1.0}, r"vision.norm_epsilon is -1.0"),
        (
            "vision_config",
            {"layer_norm_eps": np.inf},
            r"vision.norm_epsilon is inf; it must be a positive, finite number",
        ),
        ("vision_config", {"hidden_size": 24.5}, r"config.json: .*hidden_size"),
        ("vision_config", {"hidden_size": True}, r"config.json: .*hidden_size"),
        ("vision_config", {"hidden_size": None}, r"config.json: .*hidden_size"),
        ("text_config", {"max_position_embeddings": 12 * 10**6}, r"has shape \[9, 20\] instead of \[12000000, 20\]"),
        ("text_config", {"vocab_size": 10**11}, r"token_embedding.weight has shape \[\d+, 20\] instead of \[10000"),
        ("text_config", {"projection_size": 5}, r"text embeddings have 5 dimensions, but image embeddings have 24"),
        ("text_config", {"hidden_size": "wide"}, r"config.json: .*hidden_size"),
    ],
)
def test_config_with_invalid_values_is_rejected(copy, section, change, message):
    fields = json.loads((copy / "config.json").read_text())
    fields[section] |= change
    (copy / "config.json").write_text(json.dumps(fields))
    check_rejected(copy, message)


@pytest.mark.parametrize("content", ["[" * 100_000, "null", "[1]", "{", '{"model_type": "siglip", "text_config": 3}'])
def test_other_content_in_the_config_is_rejected(copy, content):
    (copy / "config.json").write_text(content)
    check_rejected(copy, r"config.json")


FILES = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "tokenizer_config.json",
    "tokenizer.json",
)
TOKENIZER = r"the tokenizer in .* cannot be opened|has no tokenizer.json"


@pytest.fixture(params=FILES)
def file(copy, request):
    """Each JSON file of a checkpoint, which a test may replace."""
    if "index" in request.param:
        (copy / "model.safetensors").unlink()
    return copy / request.param


@pytest.mark.parametrize("content", ["[" * 10**5, '{"a":' * 10**5, "3", "\xff"])
def test_deeply_nested_or_invalid_json_is_rejected_in_every_file(copy, file, content):
    file.write_bytes(content.encode("latin-1"))
    check_rejected(copy, f"{file.name} (is not valid JSON|does not contain a JSON object)|{TOKENIZER}")


def test_oversized_files_are_not_read(copy, file):
    with open(file, "ab") as opened:
        opened.truncate(3 << 30)  # sparse: takes no disk space
    began = time.monotonic()
    check_rejected(copy, rf"{file.name} has 3,221,225,472 bytes; the limit is [\d,]+")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_circular_links_and_pipes_are_rejected(copy, file, kind):
    file.unlink(missing_ok=True)
    if kind == "link":
        file.symlink_to(file.name)
    else:
        os.mkfifo(file)  # reading it would never end
    with pytest.raises(OSError, match="does not exist or is not a regular file"):
        read_json(file)
    check_rejected(copy, f"has no|{TOKENIZER}", (FileNotFoundError, ValueError))


def test_weights_index_cannot_name_files_outside_its_folder(copy, tmp_path):
    names = list(load_file(copy / "model.safetensors"))
    (copy / "model.safetensors").rename(tmp_path / "outside.safetensors")
    for outside in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "../../../etc/passwd", "", 3):
        index = {"weight_map": dict.fromkeys(names, outside)}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        check_rejected(copy, rf"lists {re.escape(repr(outside))}, which is not a .safetensors file in the same folder")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"model_type": ["clip"]}, r"model_type \['clip'\] is not supported"),
        ("preprocessor_config.json", {"image_mean": [1, 2]}, r"mean \(1, 2\) must be one finite number per color"),
        ("preprocessor_config.json", {"image_std": [0, 0.5, 0.5]}, r"std \(0, 0.5, 0.5\) must be positive"),
        ("preprocessor_config.json", {"size": {"height": -1, "width": 14}}, r"must be integers from 1 to"),
        ("preprocessor_config.json", {"size": {"height": 10**9, "width": 10**9}}, r"must be integers from 1 to"),
        ("preprocessor_config.json", {"size": {"height": 14.0, "width": 14}}, r"must be integers from 1 to"),
        (
            "preprocessor_config.json",
            {"image_std": [np.nan] * 3},
            r"std .* must be one finite number per color channel",
        ),
        (
            "preprocessor_config.json",
            {"rescale_factor": np.nan},
            r"rescale_factor nan must be positive and finite",
        ),
        (
            "preprocessor_config.json",
            {"rescale_factor": np.inf},
            r"rescale_factor inf must be positive and finite",
        ),
        ("preprocessor_config.json", {"rescale_factor": "x"}, r"rescale_factor 'x' must be positive and finite"),
        ("preprocessor_config.json", {"resample": 99}, r"resample 99 must be the number of a Pillow filter"),
        (
            "preprocessor_config.json",
            {"image_processor_type": 3},
            r"image processor 3 is not supported\. Supported: SiglipImageProcessor",
        ),
    ],
)
def test_invalid_fields_are_rejected(copy, name, change, message):
    (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | change))
    check_rejected(copy, message)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1000.0])
def test_invalid_scale_is_rejected(copy, value):
    tensors = load_file(copy / "model.safetensors") | {"logit_scale": np.array([value], np.float32)}
    save_file(tensors, copy / "model.safetensors")
    check_rejected(copy, r"logit_scale is .*; its magnitude must be below 100\.")


@pytest.mark.parametrize(("dtype", "shown"), [("V4", r"\|V4"), ("c8", "complex64"), ("U1", "<U1"), ("i4", "int32")])
def test_npz_of_other_dtypes_is_rejected(tmp_path, dtype, shown):
    np.savez(tmp_path / "siglip.npz", **{"params/img/embedding/kernel": np.zeros((5, 5, 3, 4), dtype)})
    check_rejected(tmp_path / "siglip.npz", rf"kernel.npy has dtype {shown}, which is not a floating-point type")


def test_npz_with_empty_stacked_layers_is_rejected(tmp_path):
    square = tiny("siglip", vision={"image_size": 15})
    tensors = to_tensors(
        npz_weight_map_for(square, stacked=("img/Transformer",)), random_parameters(square), scalars=SCALARS
    )
    name = "params/img/Transformer/encoderblock/LayerNorm_0/scale"
    for shape in ((), (10**6, 0)):
        np.savez(tmp_path / "siglip.npz", **tensors | {name: np.zeros(shape, np.float32)})
        check_rejected(tmp_path / "siglip.npz", r"siglip.npz: ")


def test_tokenizer_beyond_the_vocabulary_is_rejected(copy):
    FAMILIES["clip"]().save_pretrained(copy)
    check_rejected(copy, r"the tokenizer of .* produces ids up to \d+, but the text tower embeds only \d+\. Use the")


def test_code_in_a_checkpoint_is_not_run(copy, tmp_path):
    (copy / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass T: pass\n")
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        fields = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(fields | {"auto_map": {key: "evil.T"}, "trust_remote_code": True}))
    open_checkpoint(copy)
    assert not (tmp_path / "ran").exists()


def test_error_for_an_empty_folder_lists_the_supported_files(tmp_path):
    check_rejected(tmp_path, r"has no config.json, open_clip_config.json or .npz file", FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=r"./nowhere is not a checkpoint: there is no such file or folder"):
        open_checkpoint("./nowhere")


def test_error_when_the_hub_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = r"checkpoint 'google/siglip' does not exist locally, is not cached, and the Hub cannot be reached \("
    with pytest.raises(OSError, match=message):
        open_checkpoint("google/siglip")
    with pytest.raises(OSError, match=r"a/b/../c is not a checkpoint: there is no such file or folder"):
        open_checkpoint("a/b/../c")

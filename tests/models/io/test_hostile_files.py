"""What is damaged or hostile is refused in a sentence, and runs nothing."""

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

from foundation.safe_json import read_json
from models.checkpoints.big_vision import layout_of as npz_layout_of
from models.checkpoints.big_vision import save_big_vision
from models.checkpoints.io import open_checkpoint, save_checkpoint
from models.checkpoints.weight_map import to_tensors
from tests.models.tiny_models import random_parameters, tiny, tiny_checkpoint
from tests.models.tokenizer_families import FAMILIES

SCALARS = {"logit_scale": 2.5, "logit_bias": -3.5}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = save_checkpoint(tmp_path_factory.mktemp("exported") / "siglip", tiny_checkpoint("siglip"))
    open_checkpoint(folder)  # what that imports takes memory too
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """An exported SigLIP, to be damaged."""
    return shutil.copytree(exported, tmp_path / "copy")


def refused(folder, message, kind=ValueError):
    """Asserts that opening is refused in one line, and that hardly any memory was taken for it."""
    tracemalloc.start()
    try:
        with pytest.raises(kind, match=message) as error:
            open_checkpoint(folder)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "weights.pth", "last.ckpt"])
def test_pickles_are_refused_with_the_reason(copy, tmp_path, name):
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for path in (copy, copy / name):
        refused(path, rf"{name} is a pickle, which can run any program when it is opened")
    assert not (tmp_path / "ran").exists()


def test_an_npz_of_objects_is_refused(tmp_path):
    objects = np.array([Bomb(tmp_path / "ran")], object)
    path = tmp_path / "bad.npz"
    np.savez(path, **{"params/img/embedding/kernel": objects})
    refused(path, "is a pickle, which can run any program")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("offsets", "shape"),
    [([0, 1 << 60], [1 << 58]), ([-8, 16], [6]), ([64, 16], [3]), ([0, 16], [1 << 40]), ([0, 16], [2])],
)
def test_a_header_with_absurd_offsets_is_refused(copy, offsets, shape):
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    (copy / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    refused(copy, r"model.safetensors is damaged \(")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_offsets": [4, 8]}, r"model.safetensors is damaged"),  # where another tensor lies
        ({"dtype": "F128"}, r"model.safetensors is damaged|has dtype F128, which is not read here"),
        ({"dtype": "F8_E4M3"}, r"model.safetensors is damaged|has dtype F8_E4M3, which is not read here"),
        ({"shape": [10**15]}, r"model.safetensors is damaged"),
        ({"shape": [-1]}, r"model.safetensors is damaged"),
    ],
)
def test_a_header_of_one_wrong_tensor_is_refused(copy, change, message):
    content = (copy / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["logit_bias"].update(change)
    forged = json.dumps(header).encode()
    (copy / "model.safetensors").write_bytes(len(forged).to_bytes(8, "little") + forged + content[8 + length :])
    refused(copy, message)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]"]
)
def test_what_is_no_safetensors_file_is_refused(copy, content):
    (copy / "model.safetensors").write_bytes(content)
    refused(copy, r"model.safetensors is damaged \(")


def test_an_npz_that_promises_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "siglip.npz"
    square = tiny("siglip", vision={"image_size": 15})
    save_big_vision(path, square, random_parameters(square), SCALARS)
    whole = path.read_bytes()
    lie = whole.replace(b"'shape': (5, 5, 3, 24)", b"'shape': (5, 5, 3,1<<9", 1)
    for content in (lie, whole.replace(b"'shape': (5, 5, 3, 24)", b"'shape': (99,99,3, 24)", 1), whole[:-2000], b"PK"):
        path.write_bytes(content)
        refused(path, "siglip.npz is not read here: ")
    np.savez_compressed(path, **{"params/img/embedding/kernel": np.zeros((1000, 1000))})
    refused(path, "is compressed or encrypted; numpy.savez writes it plainly")


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("vision_config", {"hidden_size": -24}, r"vision.width is -24; it must be a positive whole number"),
        ("vision_config", {"intermediate_size": 2 * 10**12}, r"the tensors do not fit the config: .* and \d+ more"),
        (
            "vision_config",
            {"num_hidden_layers": 10**9},
            r"the config has 1,000,000,001 layers, and the file 88 tensors",
        ),
        ("vision_config", {"num_attention_heads": 0}, r"config.json: "),
        ("vision_config", {"patch_size": 0}, r"vision.patch_size is 0"),
        ("vision_config", {"image_size": 10**9}, r"images are made 14 × 14 pixels, and the image tower takes 10000"),
        ("vision_config", {"hidden_act": "relu"}, r"hidden_act 'relu' is not read here"),
        ("vision_config", {"vision_use_head": False}, r"towers without a pooling head are not read here"),
        ("vision_config", {"layer_norm_eps": -1.0}, r"vision.norm_epsilon is -1.0"),
        ("vision_config", {"layer_norm_eps": np.inf}, r"vision.norm_epsilon is inf; it must be a positive, finite number"),
        ("vision_config", {"hidden_size": 24.5}, r"config.json: .*hidden_size"),
        ("vision_config", {"hidden_size": True}, r"config.json: .*hidden_size"),
        ("vision_config", {"hidden_size": None}, r"config.json: .*hidden_size"),
        ("text_config", {"max_position_embeddings": 12 * 10**6}, r"has shape \[9, 20\] instead of \[12000000, 20\]"),
        ("text_config", {"vocab_size": 10**11}, r"token_embedding.weight has shape \[\d+, 20\] instead of \[10000"),
        ("text_config", {"projection_size": 5}, r"texts have 5 dimensions and images 24"),
        ("text_config", {"hidden_size": "wide"}, r"config.json: .*hidden_size"),
    ],
)
def test_a_config_that_cannot_be_is_refused(copy, section, change, message):
    fields = json.loads((copy / "config.json").read_text())
    fields[section] |= change
    (copy / "config.json").write_text(json.dumps(fields))
    refused(copy, message)


@pytest.mark.parametrize("content", ["[" * 100_000, "null", "[1]", "{", '{"model_type": "siglip", "text_config": 3}'])
def test_a_config_that_is_no_config_is_refused(copy, content):
    (copy / "config.json").write_text(content)
    refused(copy, r"config.json")


FILES = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "tokenizer_config.json",
    "tokenizer.json",
)
TOKENIZER = r"the tokenizer in .* cannot be opened|holds no tokenizer.json"


@pytest.fixture(params=FILES)
def file(copy, request):
    """Each file of a checkpoint that is JSON, to be replaced."""
    if "index" in request.param:
        (copy / "model.safetensors").unlink()
    return copy / request.param


@pytest.mark.parametrize("content", ["[" * 10**5, '{"a":' * 10**5, "3", "\xff"])
def test_json_that_nests_or_is_no_object_is_refused_wherever_it_stands(copy, file, content):
    file.write_bytes(content.encode("latin-1"))
    refused(copy, f"{file.name} (is no JSON|holds no JSON object)|{TOKENIZER}")


def test_a_file_larger_than_any_of_its_kind_is_not_read(copy, file):
    with open(file, "ab") as opened:
        opened.truncate(3 << 30)  # which takes no room on the disk
    began = time.monotonic()
    refused(copy, rf"{file.name} has 3,221,225,472 bytes, and at most [\d,]+ are read")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_in_circles_and_pipes_are_no_files(copy, file, kind):
    file.unlink(missing_ok=True)
    if kind == "link":
        file.symlink_to(file.name)
    else:
        os.mkfifo(file)  # reading it would never end
    with pytest.raises(OSError, match="is not there, or is no file"):
        read_json(file)
    refused(copy, f"holds no|{TOKENIZER}", (FileNotFoundError, ValueError))


def test_an_index_of_weights_names_no_file_outside_its_folder(copy, tmp_path):
    names = list(load_file(copy / "model.safetensors"))
    (copy / "model.safetensors").rename(tmp_path / "outside.safetensors")
    for outside in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "../../../etc/passwd", "", 3):
        index = {"weight_map": dict.fromkeys(names, outside)}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        refused(copy, rf"names {re.escape(repr(outside))}, which is no .safetensors file beside it")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"model_type": ["clip"]}, r"model_type \['clip'\] is not read here"),
        ("preprocessor_config.json", {"image_mean": [1, 2]}, r"mean \(1, 2\) is not a number for each of three"),
        ("preprocessor_config.json", {"image_std": [0, 0.5, 0.5]}, r"std \(0, 0.5, 0.5\) is not positive"),
        ("preprocessor_config.json", {"size": {"height": -1, "width": 14}}, r"must be whole numbers from 1 to"),
        ("preprocessor_config.json", {"size": {"height": 10**9, "width": 10**9}}, r"must be whole numbers from 1 to"),
        ("preprocessor_config.json", {"size": {"height": 14.0, "width": 14}}, r"must be whole numbers from 1 to"),
        ("preprocessor_config.json", {"image_std": [np.nan] * 3}, r"std .* is not a number for each of three colours"),
        ("preprocessor_config.json", {"rescale_factor": np.nan}, r"rescale_factor nan is not a positive number"),
        ("preprocessor_config.json", {"rescale_factor": np.inf}, r"rescale_factor inf is not a positive number"),
        ("preprocessor_config.json", {"rescale_factor": "x"}, r"rescale_factor 'x' is not a positive number"),
        ("preprocessor_config.json", {"resample": 99}, r"resample 99 is none of Pillow's filters"),
        ("preprocessor_config.json", {"image_processor_type": 3}, r"3 is not read here; SiglipImageProcessor"),
    ],
)
def test_fields_that_cannot_be_are_refused(copy, name, change, message):
    (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | change))
    refused(copy, message)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1000.0])
def test_a_scale_that_cannot_be_is_refused(copy, value):
    tensors = load_file(copy / "model.safetensors") | {"logit_scale": np.array([value], np.float32)}
    save_file(tensors, copy / "model.safetensors")
    refused(copy, r"logit_scale is .*, which no training ends with")


@pytest.mark.parametrize(("dtype", "shown"), [("V4", r"\|V4"), ("c8", "complex64"), ("U1", "<U1"), ("i4", "int32")])
def test_an_npz_of_no_floating_point_numbers_is_refused(tmp_path, dtype, shown):
    np.savez(tmp_path / "siglip.npz", **{"params/img/embedding/kernel": np.zeros((5, 5, 3, 4), dtype)})
    refused(tmp_path / "siglip.npz", rf"kernel.npy has dtype {shown}, which is no floating-point number")


def test_an_npz_of_stacked_layers_without_numbers_is_refused(tmp_path):
    square = tiny("siglip", vision={"image_size": 15})
    tensors = to_tensors(
        npz_layout_of(square, scanned=("img/Transformer",)), random_parameters(square), scalars=SCALARS
    )
    name = "params/img/Transformer/encoderblock/LayerNorm_0/scale"
    for shape in ((), (10**6, 0)):
        np.savez(tmp_path / "siglip.npz", **tensors | {name: np.zeros(shape, np.float32)})
        refused(tmp_path / "siglip.npz", r"siglip.npz: ")


def test_a_tokenizer_of_another_vocabulary_is_refused(copy):
    FAMILIES["clip"]().save_pretrained(copy)
    refused(copy, r"the tokenizer of .* has ids up to \d+ and its text tower embeds \d+; name the tokenizer that")


def test_code_that_a_checkpoint_brings_is_not_run(copy, tmp_path):
    (copy / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass T: pass\n")
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        fields = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(fields | {"auto_map": {key: "evil.T"}, "trust_remote_code": True}))
    open_checkpoint(copy)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_holds_nothing_says_what_one_would(tmp_path):
    refused(tmp_path, r"holds no config.json, open_clip_config.json or .npz", FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=r"./nowhere is no exported checkpoint: there is no such folder"):
        open_checkpoint("./nowhere")


def test_a_hub_id_out_of_reach_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"checkpoint 'google/siglip' is not here, and as a hub id neither cached nor in"):
        open_checkpoint("google/siglip")
    with pytest.raises(OSError, match=r"checkpoint 'a/b/../c' is not here, and as a hub id .* \(it is no hub id\)"):
        open_checkpoint("a/b/../c")

"""Opening and saving checkpoints of every format."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.checkpoints.big_vision import save_big_vision
from models.checkpoints.big_vision import weight_map_for as npz_weight_map_for
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.huggingface import weight_map_for
from models.checkpoints.io import open_checkpoint, save_checkpoint
from models.checkpoints.model_card import MeasuredResult, model_card, write_results
from models.checkpoints.weight_map import flatten, parameter_shapes, read_parameters, to_tensors
from models.io.tensor_reader import open_tensors
from models.preprocessing import PREPROCESSOR_FILE, Preprocessing
from models.text.tokenizer import train_tokenizer
from models.towers import create_model
from tests.logged import logged
from tests.models.tiny_models import GOLDEN, random_parameters, tiny, tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[3]
SCALARS = {"logit_scale": 2.5, "logit_bias": -3.5}


def same(ours, theirs):
    ours, theirs = dict(flatten(ours)), dict(flatten(theirs))
    assert set(ours) == set(theirs)
    return all(np.array_equal(ours[path], theirs[path]) for path in ours)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    checkpoint = tiny_checkpoint("siglip")
    return save_checkpoint(tmp_path_factory.mktemp("siglip") / "export", checkpoint), checkpoint


@pytest.fixture
def copy(siglip, tmp_path):
    """A copy of an exported SigLIP that a test may damage."""
    return pathlib.Path(shutil.copytree(siglip[0], tmp_path / "copy"))


@pytest.mark.parametrize("family", ["siglip", "clip"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_saved_checkpoint_opens_unchanged(tmp_path, family, dtype):
    saved = tiny_checkpoint(family)
    rounded = jax.tree.map(lambda array: array.astype(jnp.dtype(dtype)), saved.parameters)
    opened = open_checkpoint(save_checkpoint(tmp_path / "export", saved._replace(parameters=rounded), dtype=dtype))
    assert opened.settings == saved.settings and opened.preprocessing == saved.preprocessing and opened.dtype == dtype
    assert same(opened.parameters, jax.tree.map(lambda array: array.astype("float32"), rounded))
    assert opened.scalars == (saved.scalars if family == "siglip" else {"logit_scale": 2.5, "logit_bias": 0.0})
    again = open_checkpoint(tmp_path / "export", dtype=dtype).parameters
    assert {leaf.dtype.name for leaf in jax.tree.leaves(again)} == {dtype} and same(again, rounded)


def test_values_too_large_for_float16_are_rejected(tmp_path):
    saved = tiny_checkpoint("siglip")
    large = jax.tree.map(lambda array: array + 7e4, saved.parameters)
    with pytest.raises(ValueError, match=r"has values above 65,504, the largest of float16\. Use dtype bfloat16\."):
        save_checkpoint(tmp_path / "export", saved._replace(parameters=large), dtype="float16")
    assert not (tmp_path / "export").exists()


def test_sharded_checkpoint_opens_like_a_single_file(copy, siglip):
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, half in halves.items():
        save_file({tensor: tensors[tensor] for tensor in half}, copy / name)
    (copy / "model.safetensors").unlink()
    weights = {tensor: name for name, half in halves.items() for tensor in half}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    assert same(open_checkpoint(copy).parameters, siglip[1].parameters)
    (copy / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists b.safetensors, which does not exist\. Download the whole"):
        open_checkpoint(copy)
    for elsewhere in ("../copy/a.safetensors", "/etc/passwd", "a.bin"):
        hostile = {"weight_map": dict.fromkeys(names, elsewhere)}
        (copy / "model.safetensors.index.json").write_text(json.dumps(hostile))
        with pytest.raises(ValueError, match=r"which is not a .safetensors file in the same folder"):
            open_checkpoint(copy)


@pytest.mark.parametrize("stacked", [(), ("img/Transformer", "txt/Encoder_0")])
def test_npz_with_separate_or_stacked_layers_opens_unchanged(tmp_path, siglip, stacked):
    _, saved = siglip
    square = tiny("siglip", vision={"image_size": 15}, vocab_size=60)  # an .npz stores whole patches only
    parameters = random_parameters(square)
    path = tmp_path / "siglip.npz"
    if stacked:
        tensors = to_tensors(npz_weight_map_for(square, stacked=stacked), parameters, scalars=SCALARS)
        assert tensors["params/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"].shape == (3, 24, 36)
        np.savez(path, **tensors)
    else:
        save_big_vision(path, square, parameters=parameters, scalars=SCALARS)
    saved.tokenizer.save(tmp_path)
    opened = open_checkpoint(path)
    assert opened.settings == square and opened.scalars == SCALARS and same(opened.parameters, parameters)
    assert opened.preprocessing == Preprocessing(size=(15, 15))
    assert same(open_checkpoint(tmp_path).parameters, parameters)  # the folder that contains it
    again = save_checkpoint(tmp_path / "converted", opened)
    assert same(open_checkpoint(again).parameters, parameters)


def test_npz_of_bfloat16_opens(tmp_path, siglip):
    square = tiny("siglip", vision={"image_size": 15}, vocab_size=60)
    tensors = to_tensors(
        npz_weight_map_for(square), random_parameters(square), scalars=SCALARS, dtype=ml_dtypes.bfloat16
    )
    np.savez(tmp_path / "half.npz", **tensors)
    with np.load(tmp_path / "half.npz") as stored:
        assert stored["params/txt/head/bias"].dtype == np.dtype("V2")
    opened = describe_checkpoint(tmp_path / "half.npz")
    assert opened.files.float_dtype == "bfloat16"
    np.testing.assert_array_equal(
        opened.read()["text"]["head"]["bias"], tensors["params/txt/head/bias"].astype("float32")
    )


def test_embedding_images_needs_no_tokenizer(tmp_path):
    from PIL import Image

    from adapt.embedding.encoder import Encoder

    square = tiny("siglip", vision={"image_size": 15})
    encoder = Encoder(
        save_big_vision(tmp_path / "siglip.npz", square, parameters=random_parameters(square), scalars=SCALARS)
    )
    assert encoder.embed_images(lambda number: Image.new("RGB", (9, 9)), 2).shape == (2, 24)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json"):
        encoder.embed_texts(["a fish"])


def test_npz_without_a_tokenizer_opens_with_a_given_one(tmp_path, siglip):
    folder, saved = siglip
    square = tiny("siglip", vision={"image_size": 15}, vocab_size=60)
    path = save_big_vision(tmp_path / "siglip.npz", square, parameters=random_parameters(square), scalars=SCALARS)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json"):
        open_checkpoint(path)
    opened = open_checkpoint(path, tokenizer=str(folder))
    np.testing.assert_array_equal(opened.tokenizer(["a fish"]), saved.tokenizer(["a fish"]))


def test_towers_that_a_format_cannot_hold_are_rejected(tmp_path):
    clip = tiny_checkpoint("clip")
    with pytest.raises(ValueError, match=r"the .npz format of big_vision holds only SigLIP towers, and this is a CLIP"):
        save_big_vision(tmp_path / "clip.npz", clip.settings, parameters=clip.parameters, scalars=SCALARS)
    mixed = tiny_checkpoint("siglip", text={"causal": True})
    with pytest.raises(ValueError, match=r"the towers mix settings of SiglipModel and CLIPModel"):
        save_checkpoint(tmp_path / "mixed", mixed)
    average = tiny_checkpoint("clip", vision={"pooling": "average"})
    with pytest.raises(
        ValueError, match=r"or pool by the average, as CLIPA and OpenVision, and neither class can hold"
    ):
        save_checkpoint(tmp_path / "average", average)
    other = tiny_checkpoint("siglip", vision={"activation": "gelu"})
    with logged() as messages:
        save_big_vision(tmp_path / "x.npz", other.settings, parameters=other.parameters, scalars=SCALARS)
    assert messages == ["warning: the .npz format does not store vision.activation gelu; readers assume gelu_tanh"]
    (tmp_path / "x.npz").unlink()
    oblong = tiny_checkpoint("siglip", vision={"image_size": (10, 15)})
    with pytest.raises(ValueError, match=r"images of 10 × 15 pixels are not square"):
        save_checkpoint(tmp_path / "oblong", oblong)
    assert not list(tmp_path.iterdir())


def test_embeddings_equal_those_of_open_clip_in_pytorch():
    folder = GOLDEN.parent / "golden_open_clip"
    golden, found = np.load(folder / "outputs.npz"), describe_checkpoint(folder)
    model, parameters = create_model(found.settings), found.read()
    assert found.settings.vision.grid == (3, 4) and found.settings.vision.activation == "quick_gelu"
    assert found.preprocessing.shape == (21, 28) and found.preprocessing.std == (0.3, 0.2, 0.5)
    images = model.embed_images(parameters, golden["pixels"])
    np.testing.assert_allclose(images, golden["image_embeddings"], rtol=1e-5, atol=1e-5)
    texts = model.embed_texts(parameters, jnp.asarray(golden["tokens"]))
    np.testing.assert_allclose(texts, golden["text_embeddings"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("vision_cfg", {"ls_init_value": 0.1}, r"vision_cfg.ls_init_value 0.1 is not supported"),
        (
            "vision_cfg",
            {"timm_model_name": "vit_pe_core_base_patch16_224", "timm_pool": ""},
            r"'vit_pe_core_base_patch16_224' is not supported: .* rotary .*`launch\.py align`",
        ),
        ("vision_cfg", {"timm_model_name": "convnext_base"}, r"timm_model_name 'convnext_base' is not supported"),
        ("vision_cfg", {"pool_type": "none"}, r"vision_cfg.pool_type 'none' is not supported\. Supported: tok, avg"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, r"vision.depth is \[3, 4, 6, 3\]; it must be a positive whole"),
        ("vision_cfg", {"head_width": 0}, r"a field does not have the type that open_clip writes"),
        ("text_cfg", {"pool_type": "first"}, r"text_cfg.pool_type 'first' is not supported"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, r"text_cfg.hf_model_name 'roberta-base' is not supported"),
        ("text_cfg", {"layers": 10**9}, r"the config has 1,000,000,002 layers, but the file has only"),
    ],
)
def test_unsupported_open_clip_settings_are_named(tmp_path, section, change, message):
    folder = pathlib.Path(shutil.copytree(GOLDEN.parent / "golden_open_clip", tmp_path / "copy"))
    path = folder / "open_clip_config.json"
    fields = json.loads(path.read_text())
    fields["model_cfg"][section] |= change
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        describe_checkpoint(folder)


def test_open_clip_config_enables_canonicalization(tmp_path):
    folder = pathlib.Path(shutil.copytree(GOLDEN.parent / "golden_open_clip", tmp_path / "copy"))
    fields = json.loads((folder / "open_clip_config.json").read_text())
    fields["model_cfg"]["text_cfg"] |= {"tokenizer_kwargs": {"clean": "canonicalize"}}
    (folder / "open_clip_config.json").write_text(json.dumps(fields))
    train_tokenizer(["a red fish"], vocab_size=30, length=9, canonicalize="none").save(folder)
    tokenizer = open_checkpoint(folder).tokenizer
    np.testing.assert_array_equal(tokenizer(["A_Red  fish!"]), tokenizer(["a red fish"]))


def test_folder_that_is_not_a_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    for name in ("photos", "file"):
        with pytest.raises(FileExistsError, match=rf"{name} exists and is not a checkpoint\. It was not changed"):
            save_checkpoint(tmp_path / name, tiny_checkpoint("siglip"))
    assert (tmp_path / "photos" / "one.jpg").read_bytes() == b"mine"
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip"))
    (folder / "thesis.tex").write_bytes(b"mine")
    with pytest.raises(
        FileExistsError, match=r"export contains thesis.tex, which is not part of a checkpoint\. It was"
    ):
        save_checkpoint(folder, tiny_checkpoint("siglip"))
    assert (folder / "thesis.tex").read_bytes() == b"mine"
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
    square = tiny("siglip", vision={"image_size": 15})
    with pytest.raises(FileExistsError, match=r"file exists and is not an .npz file\. It was not changed"):
        save_big_vision(tmp_path / "file", square, parameters=random_parameters(square), scalars=SCALARS)
    (tmp_path / "empty").mkdir()
    save_checkpoint(tmp_path / "empty", tiny_checkpoint("siglip"))


def test_leftovers_of_a_killed_process_are_replaced_and_results_are_kept_with_the_same_weights(tmp_path):
    checkpoint, folder = tiny_checkpoint("siglip"), tmp_path / "export"
    card = model_card(
        checkpoint.settings, name="x", architecture="SiglipModel", license=None, base_model=None, training={}
    )
    save_checkpoint(folder, checkpoint, card=card)
    assert write_results(folder, [MeasuredResult("digits", "accuracy", "64.5", "zero-shot")])
    (folder / ".partial-killed").mkdir()
    (folder / ".partial-killed" / "README.md").write_text("half")
    save_checkpoint(folder, checkpoint, card=card)
    assert not list(folder.glob(".partial-*")) and "64.5" in (folder / "README.md").read_text()
    save_checkpoint(folder, tiny_checkpoint("siglip", seed=1), card=card)
    assert "64.5" not in (folder / "README.md").read_text()


def test_named_weights_file_is_the_one_opened(copy):
    other = tiny_checkpoint("siglip", seed=1).parameters
    tensors = to_tensors(weight_map_for(tiny_checkpoint("siglip").settings, "siglip"), other, scalars=SCALARS)
    save_file(tensors, copy / "epoch5.safetensors")
    assert same(open_checkpoint(copy / "epoch5.safetensors").parameters, other)
    assert not same(open_checkpoint(copy).parameters, other)


def test_folder_with_both_formats_prefers_transformers(copy):
    for file in (GOLDEN.parent / "golden_open_clip").iterdir():
        shutil.copy(file, copy)
    assert describe_checkpoint(copy).format == "huggingface"
    (copy / "model.safetensors").unlink()
    assert describe_checkpoint(copy).format == "open_clip"


# Another image size


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_another_image_size_resamples_positions_and_is_logged(tmp_path, family):
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint(family))
    with logged() as messages:
        opened = open_checkpoint(folder, image_size=27)
    assert messages == [f"{folder}: position embeddings of 2 × 2 patches resampled to 5 × 5"]
    table = np.asarray(opened.parameters["vision"]["position_embedding"])
    kept = int(family == "clip")
    before = np.asarray(open_checkpoint(folder).parameters["vision"]["position_embedding"])
    np.testing.assert_array_equal(table[:kept], before[:kept])
    expected = between_corners(before[kept:].reshape(2, 2, -1).astype(np.float64), 5)
    np.testing.assert_allclose(table[kept:].reshape(5, 5, -1), expected, rtol=0, atol=1e-6)
    assert opened.preprocessing.shape == (27, 27)
    assert create_model(opened.settings).embed_images(opened.parameters, jnp.zeros((1, 27, 27, 3))).shape == (
        1,
        opened.settings.dim,
    )


def between_corners(grid, size):
    """Return a square grid interpolated linearly to `size` × `size` points with aligned corners."""
    places = np.linspace(0, len(grid) - 1, size)
    low = np.minimum(places.astype(int), len(grid) - 2)
    share = (places - low)[:, None]
    rows = (1 - share)[..., None] * grid[low] + share[..., None] * grid[low + 1]
    return (1 - share) * rows[:, low] + share * rows[:, low + 1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Preprocessing(size=16, crop=(14, 14)), Preprocessing(size=32, crop=(28, 28))),
        (Preprocessing(size=(16, 20), crop=(14, 14)), Preprocessing(size=(32, 40), crop=(28, 28))),
        (Preprocessing(size=None, crop=(14, 14)), Preprocessing(size=None, crop=(28, 28))),
        (Preprocessing(size=(14, 14), mean=(0.1, 0.2, 0.3)), Preprocessing(size=(28, 28), mean=(0.1, 0.2, 0.3))),
    ],
)
def test_crop_scales_with_the_image_size(before, after):
    assert before.for_shape((28, 28)) == after


def test_size_with_the_same_grid_does_not_resample(siglip):
    with logged() as messages:
        opened = open_checkpoint(siglip[0], image_size=13)
    assert not messages and same(opened.parameters, siglip[1].parameters)
    assert opened.preprocessing.shape == (13, 13)


# Memory

MEMORY = """
import sys, jax, numpy as np
from tests.logged import logged
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.io import Checkpoint
def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024
jax.block_until_ready(jax.device_put(np.zeros(9)))
found = describe_checkpoint(sys.argv[1])
before = peak()
parameters = jax.block_until_ready(found.read(dtype="bfloat16"))
print(peak() - before, sum(leaf.nbytes for leaf in jax.tree.leaves(parameters)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_opening_needs_little_more_memory_than_the_file(tmp_path):
    settings = tiny(
        "siglip",
        vision={"width": 512, "mlp_width": 2048, "depth": 12, "heads": 8},
        text={"width": 512, "mlp_width": 2048, "depth": 6},
    )
    weight_map = weight_map_for(settings, "siglip")
    parameters = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, ml_dtypes.bfloat16), jax.eval_shape(lambda: create_model(settings).init(0))
    )
    checkpoint = tiny_checkpoint("siglip")._replace(settings=settings, parameters=parameters, dtype="bfloat16")
    folder = save_checkpoint(tmp_path / "large", checkpoint)
    size = (folder / "model.safetensors").stat().st_size
    assert size > 100e6 and weight_map.entries
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    peak, held = map(int, result.stdout.split())
    assert 0.95 * size < held < size < peak + 20e6 and peak < 1.2 * size


def test_arrays_are_placed_largest_first(siglip):
    folder, saved = siglip
    files, settings = open_tensors(folder / "model.safetensors"), saved.settings
    sizes = []
    read_parameters(
        files,
        weight_map_for(settings, "siglip"),
        shapes=parameter_shapes(settings),
        dtype=np.float32,
        place=lambda path, array: sizes.append(array.size),
    )
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == len(jax.tree.leaves(saved.parameters))


def test_saved_checkpoint_contains_its_image_processor(tmp_path):
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint("clip"))
    assert json.loads((folder / PREPROCESSOR_FILE).read_text())["crop_size"] == {"height": 14, "width": 14}

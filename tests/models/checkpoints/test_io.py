"""Checkpoints of every format, opened and written."""

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

from models.checkpoints.big_vision import layout_of as npz_layout_of
from models.checkpoints.big_vision import save_big_vision
from models.checkpoints.huggingface import layout_of
from models.checkpoints.io import Checkpoint, describe_checkpoint, open_checkpoint, save_checkpoint
from models.checkpoints.weight_map import flatten, parameter_shapes, read_parameters, to_tensors
from models.io.tensor_reader import open_tensors
from models.preprocessing import PREPROCESSOR_FILE, Preprocessing
from models.text.tokenizer import open_tokenizer, train_tokenizer
from models.towers import create_model
from tests.logged import logged
from tests.models.tiny_models import GOLDEN, random_parameters, tiny, tiny_checkpoint
from tests.models.tokenizer_families import FAMILIES

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
    """A copy of an exported SigLIP, to be damaged."""
    return pathlib.Path(shutil.copytree(siglip[0], tmp_path / "copy"))


@pytest.mark.parametrize("family", ["siglip", "clip"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_saved_opens_as_what_it_was(tmp_path, family, dtype):
    saved = tiny_checkpoint(family)
    rounded = jax.tree.map(lambda array: array.astype(jnp.dtype(dtype)), saved.parameters)
    opened = open_checkpoint(save_checkpoint(tmp_path / "export", saved._replace(parameters=rounded), dtype=dtype))
    assert opened.settings == saved.settings and opened.preprocessing == saved.preprocessing and opened.dtype == dtype
    assert same(opened.parameters, jax.tree.map(lambda array: array.astype("float32"), rounded))
    assert opened.scalars == (saved.scalars if family == "siglip" else {"logit_scale": 2.5, "logit_bias": 0.0})
    again = open_checkpoint(tmp_path / "export", dtype=dtype).parameters
    assert {leaf.dtype.name for leaf in jax.tree.leaves(again)} == {dtype} and same(again, rounded)


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path):
    saved = tiny_checkpoint("siglip")
    large = jax.tree.map(lambda array: array + 7e4, saved.parameters)
    with pytest.raises(ValueError, match="which float16 cannot hold; write bfloat16"):
        save_checkpoint(tmp_path / "export", saved._replace(parameters=large), dtype="float16")
    assert not (tmp_path / "export").exists()


def test_a_checkpoint_in_several_files_opens_as_the_one_in_one_file(copy, siglip):
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
    with pytest.raises(FileNotFoundError, match=r"names b.safetensors, which is not there; fetch the whole"):
        open_checkpoint(copy)
    for elsewhere in ("../copy/a.safetensors", "/etc/passwd", "a.bin"):
        hostile = {"weight_map": dict.fromkeys(names, elsewhere)}
        (copy / "model.safetensors.index.json").write_text(json.dumps(hostile))
        with pytest.raises(ValueError, match=r"which is no .safetensors file beside it"):
            open_checkpoint(copy)


@pytest.mark.parametrize("scanned", [(), ("img/Transformer", "txt/Encoder_0")])
def test_an_npz_opens_as_what_was_saved_with_layers_apart_or_stacked(tmp_path, siglip, scanned):
    _, saved = siglip
    square = tiny("siglip", vision={"image_size": 15}, vocab_size=60)  # of a remainder an .npz says nothing
    parameters = random_parameters(square)
    path = tmp_path / "siglip.npz"
    if scanned:
        tensors = to_tensors(npz_layout_of(square, scanned=scanned), parameters, scalars=SCALARS)
        assert tensors["params/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"].shape == (3, 24, 36)
        np.savez(path, **tensors)
    else:
        save_big_vision(path, square, parameters, SCALARS)
    saved.tokenizer.save(tmp_path)
    opened = open_checkpoint(path)
    assert opened.settings == square and opened.scalars == SCALARS and same(opened.parameters, parameters)
    assert opened.preprocessing == Preprocessing(size=(15, 15))
    assert same(open_checkpoint(tmp_path).parameters, parameters)  # the folder with one
    again = save_checkpoint(tmp_path / "converted", opened)
    assert same(open_checkpoint(again).parameters, parameters)


def test_an_npz_of_bfloat16_as_numpy_writes_it_opens(tmp_path, siglip):
    square = tiny("siglip", vision={"image_size": 15}, vocab_size=60)
    tensors = to_tensors(npz_layout_of(square), random_parameters(square), scalars=SCALARS, dtype=ml_dtypes.bfloat16)
    np.savez(tmp_path / "half.npz", **tensors)
    with np.load(tmp_path / "half.npz") as stored:
        assert stored["params/txt/head/bias"].dtype == np.dtype("V2")
    opened = describe_checkpoint(tmp_path / "half.npz")
    assert opened.files.float_dtype == "bfloat16"
    np.testing.assert_array_equal(
        opened.read()["text"]["head"]["bias"], tensors["params/txt/head/bias"].astype("float32")
    )


def test_images_need_no_tokenizer(tmp_path):
    from PIL import Image

    from adapt.embedding.encoder import Encoder

    square = tiny("siglip", vision={"image_size": 15})
    encoder = Encoder(save_big_vision(tmp_path / "siglip.npz", square, random_parameters(square), SCALARS))
    assert encoder.embed_images(lambda number: Image.new("RGB", (9, 9)), 2).shape == (2, 24)
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer.json"):
        encoder.embed_texts(["a fish"])


def test_an_npz_without_a_tokenizer_takes_the_one_that_is_named(tmp_path, siglip):
    folder, saved = siglip
    square = tiny("siglip", vision={"image_size": 15}, vocab_size=60)
    path = save_big_vision(tmp_path / "siglip.npz", square, random_parameters(square), SCALARS)
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer.json"):
        open_checkpoint(path)
    opened = open_checkpoint(path, tokenizer=str(folder))
    np.testing.assert_array_equal(opened.tokenizer(["a fish"]), saved.tokenizer(["a fish"]))


def test_a_clip_is_no_npz_and_towers_of_neither_family_are_no_directory(tmp_path):
    clip = tiny_checkpoint("clip")
    with pytest.raises(ValueError, match=r"big_vision's .npz holds SigLIP towers; this is a CLIP"):
        save_big_vision(tmp_path / "clip.npz", clip.settings, clip.parameters, SCALARS)
    mixed = tiny_checkpoint("siglip", text={"causal": True})
    with pytest.raises(ValueError, match=r"these towers mix what SiglipModel and CLIPModel have"):
        save_checkpoint(tmp_path / "mixed", mixed)
    other = tiny_checkpoint("siglip", vision={"activation": "gelu"})
    with logged() as said:
        save_big_vision(tmp_path / "x.npz", other.settings, other.parameters, SCALARS)
    assert said == ["note: an .npz does not hold vision.activation gelu; readers assume gelu_tanh"]
    (tmp_path / "x.npz").unlink()
    oblong = tiny_checkpoint("siglip", vision={"image_size": (10, 15)})
    with pytest.raises(ValueError, match=r"images of \(10, 15\) are no squares"):
        save_checkpoint(tmp_path / "oblong", oblong)
    assert not list(tmp_path.iterdir())


def test_a_siglip2_of_any_shape_opens_on_the_square_of_its_positions(tmp_path):
    FAMILIES["siglip2"]().save_pretrained(tmp_path / "tokens")
    tokenizer = open_tokenizer(str(tmp_path / "tokens"), length=9)
    square = tiny("siglip", vision={"image_size": 15}, vocab_size=tokenizer.vocab_size)
    parameters, folder = random_parameters(square), tmp_path / "naflex"
    saved = Checkpoint(square, parameters, SCALARS, Preprocessing(size=(15, 15)), tokenizer)
    save_checkpoint(folder, saved)
    fields = json.loads((folder / "config.json").read_text())
    fields["model_type"] = "siglip2"
    for tower in ("vision", "text"):
        fields[f"{tower}_config"]["model_type"] = f"siglip2_{tower}_model"
    fields["vision_config"]["num_patches"] = 9
    del fields["vision_config"]["image_size"]
    (folder / "config.json").write_text(json.dumps(fields))
    processor = {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 9, "resample": 2}
    (folder / PREPROCESSOR_FILE).write_text(json.dumps(processor | {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.5, 0.5, 0.5]}))
    save_file(to_tensors(layout_of(square, "siglip2"), parameters, scalars=SCALARS), folder / "model.safetensors")
    opened = open_checkpoint(folder)
    assert opened.settings == square and opened.scalars == SCALARS and same(opened.parameters, parameters)
    assert opened.preprocessing == Preprocessing(size=(15, 15), resample=2, mean=(0.4, 0.5, 0.6))
    again = open_checkpoint(save_checkpoint(tmp_path / "fixed", opened))
    assert again.settings == square and same(again.parameters, parameters)


def test_embeddings_of_open_clip_equal_those_that_it_computed_in_pytorch():
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
        ("vision_cfg", {"ls_init_value": 0.1}, r"vision_cfg.ls_init_value 0.1 is not read here"),
        ("vision_cfg", {"timm_model_name": "convnext_base"}, r"timm_model_name 'convnext_base' is not read here"),
        ("vision_cfg", {"pool_type": "avg"}, r"vision_cfg.pool_type 'avg' is not read here"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, r"vision.depth is \[3, 4, 6, 3\]; it must be a positive whole"),
        ("vision_cfg", {"head_width": 0}, r"are not of the kind that open_clip writes"),
        ("text_cfg", {"pool_type": "first"}, r"text_cfg.pool_type 'first' is not read here"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, r"text_cfg.hf_model_name 'roberta-base' is not read here"),
        ("text_cfg", {"layers": 10**9}, r"the config has 1,000,000,002 layers, and the file"),
    ],
)
def test_what_open_clip_has_and_we_do_not_is_named(tmp_path, section, change, message):
    folder = pathlib.Path(shutil.copytree(GOLDEN.parent / "golden_open_clip", tmp_path / "copy"))
    path = folder / "open_clip_config.json"
    fields = json.loads(path.read_text())
    fields["model_cfg"][section] |= change
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        describe_checkpoint(folder)


def test_texts_are_canonicalized_where_the_config_of_open_clip_says_so(tmp_path):
    folder = pathlib.Path(shutil.copytree(GOLDEN.parent / "golden_open_clip", tmp_path / "copy"))
    fields = json.loads((folder / "open_clip_config.json").read_text())
    fields["model_cfg"]["text_cfg"] |= {"tokenizer_kwargs": {"clean": "canonicalize"}}
    (folder / "open_clip_config.json").write_text(json.dumps(fields))
    train_tokenizer(["a red fish"], vocab_size=30, length=9, canonicalize="none").save(folder)
    tokenizer = open_checkpoint(folder).tokenizer
    np.testing.assert_array_equal(tokenizer(["A_Red  fish!"]), tokenizer(["a red fish"]))


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    for name in ("photos", "file"):
        with pytest.raises(FileExistsError, match=rf"{name} is there and is no checkpoint; it is left as it is"):
            save_checkpoint(tmp_path / name, tiny_checkpoint("siglip"))
    assert (tmp_path / "photos" / "one.jpg").read_bytes() == b"mine"
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip"))
    (folder / "thesis.tex").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"thesis.tex is no part of a checkpoint; .*export is left as it is"):
        save_checkpoint(folder, tiny_checkpoint("siglip"))
    assert (folder / "thesis.tex").read_bytes() == b"mine"
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
    square = tiny("siglip", vision={"image_size": 15})
    with pytest.raises(FileExistsError, match=r"file is there and is no .npz; it is left as it is"):
        save_big_vision(tmp_path / "file", square, random_parameters(square), SCALARS)
    (tmp_path / "empty").mkdir()
    save_checkpoint(tmp_path / "empty", tiny_checkpoint("siglip"))


def test_a_file_that_is_named_is_the_one_that_is_opened(copy):
    other = tiny_checkpoint("siglip", seed=1).parameters
    tensors = to_tensors(layout_of(tiny_checkpoint("siglip").settings, "siglip"), other, scalars=SCALARS)
    save_file(tensors, copy / "epoch5.safetensors")
    assert same(open_checkpoint(copy / "epoch5.safetensors").parameters, other)
    assert not same(open_checkpoint(copy).parameters, other)


def test_what_open_clip_left_beside_a_config_of_transformers_opens(copy):
    for file in (GOLDEN.parent / "golden_open_clip").iterdir():
        shutil.copy(file, copy)
    assert describe_checkpoint(copy).format == "huggingface"
    (copy / "model.safetensors").unlink()
    assert describe_checkpoint(copy).format == "open_clip"


# Another resolution


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_images_of_another_size_have_resampled_positions_and_a_line_that_says_so(tmp_path, family):
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint(family))
    with logged() as said:
        opened = open_checkpoint(folder, image_size=27)
    assert said == [f"{folder}: position embeddings of 2 × 2 patches resampled to 5 × 5"]
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
    """Returns a square grid, linear between its points, with corners on corners."""
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
def test_a_crop_keeps_its_share_of_the_image_at_another_size(before, after):
    assert before.for_shape((28, 28)) == after


def test_a_size_with_the_same_patches_resamples_nothing(siglip):
    with logged() as said:
        opened = open_checkpoint(siglip[0], image_size=13)
    assert not said and same(opened.parameters, siglip[1].parameters)
    assert opened.preprocessing.shape == (13, 13)


# Memory

MEMORY = """
import sys, jax, numpy as np
from tests.logged import logged
from models.checkpoints.io import Checkpoint, describe_checkpoint
def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024
jax.block_until_ready(jax.device_put(np.zeros(9)))
found = describe_checkpoint(sys.argv[1])
before = peak()
parameters = jax.block_until_ready(found.read(dtype="bfloat16"))
print(peak() - before, sum(leaf.nbytes for leaf in jax.tree.leaves(parameters)))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_opening_takes_hardly_more_memory_than_the_file(tmp_path):
    settings = tiny(
        "siglip",
        vision={"width": 512, "mlp_width": 2048, "depth": 12, "heads": 8},
        text={"width": 512, "mlp_width": 2048, "depth": 6},
    )
    layout = layout_of(settings, "siglip")
    parameters = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, ml_dtypes.bfloat16), jax.eval_shape(lambda: create_model(settings).init(0))
    )
    checkpoint = tiny_checkpoint("siglip")._replace(settings=settings, parameters=parameters, dtype="bfloat16")
    folder = save_checkpoint(tmp_path / "large", checkpoint)
    size = (folder / "model.safetensors").stat().st_size
    assert size > 100e6 and layout.entries
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    peak, held = map(int, result.stdout.split())
    assert 0.95 * size < held < size < peak + 20e6 and peak < 1.2 * size


def test_reading_places_every_array_as_it_is_told_the_largest_first(siglip):
    folder, saved = siglip
    files, settings = open_tensors(folder / "model.safetensors"), saved.settings
    sizes = []
    read_parameters(
        files,
        layout_of(settings, "siglip"),
        parameter_shapes(settings),
        dtype=np.float32,
        place=lambda path, array: sizes.append(array.size),
    )
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == len(jax.tree.leaves(saved.parameters))


def test_the_image_processor_is_written_with_the_checkpoint(tmp_path):
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint("clip"))
    assert json.loads((folder / PREPROCESSOR_FILE).read_text())["crop_size"] == {"height": 14, "width": 14}

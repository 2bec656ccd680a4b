"""The weight map between our parameters and those of SiglipModel and CLIPModel."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.checkpoints.huggingface import family_of, weight_map_for
from models.checkpoints.io import Checkpoint, open_checkpoint, save_checkpoint
from models.checkpoints.weight_map import to_tensors
from models.config import ModelSettings, TextSettings, VisionSettings
from models.preprocessing import PREPROCESSOR_FILE, Preprocessing
from models.text.tokenizer import open_tokenizer, train_tokenizer
from models.towers import create_model
from tests.models.tiny_models import GOLDEN, open_golden, random_parameters, tiny, tiny_checkpoint
from tests.models.tokenizer_families import FAMILIES, TEXTS


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    tokenizer = train_tokenizer(["a red fish", "two blue birds", "one green tree"], vocab_size=60, length=9)
    settings = ModelSettings(
        vision=VisionSettings(image_size=14, patch_size=5, width=24, depth=3, heads=2, mlp_width=36),
        text=TextSettings(vocab_size=tokenizer.vocab_size, length=9, width=20, depth=1, heads=4, mlp_width=28),
    )
    checkpoint = Checkpoint(
        settings,
        create_model(settings).init(0),
        {"logit_scale": 2.5, "logit_bias": -3.5},
        Preprocessing(size=(14, 14)),
        tokenizer,
    )
    return save_checkpoint(tmp_path_factory.mktemp("run") / "export", checkpoint), checkpoint


@pytest.mark.parametrize("name", ["golden", "golden_clip"])
def test_embeddings_equal_those_of_transformers_in_pytorch(name):
    golden = np.load(GOLDEN.parent / name / "outputs.npz")
    tensors = load_file(GOLDEN.parent / name / "model.safetensors")
    settings, parameters = open_golden(GOLDEN.parent / name)
    model = create_model(settings)
    images = model.embed_images(parameters, jnp.asarray(golden["pixels"].transpose(0, 2, 3, 1)))
    texts = model.embed_texts(parameters, jnp.asarray(golden["tokens"]))
    np.testing.assert_allclose(images, golden["image_embeddings"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(texts, golden["text_embeddings"], rtol=1e-5, atol=1e-5)
    x, t = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (np.asarray(images), np.asarray(texts)))
    logits = np.exp(tensors["logit_scale"]) * x @ t.T + tensors.get("logit_bias", 0)
    np.testing.assert_allclose(logits, golden["logits_per_image"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["golden", "golden_clip"])
def test_tensors_of_transformers_round_trip_byte_for_byte(name):
    tensors = load_file(GOLDEN.parent / name / "model.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("logit_")}
    settings, parameters = open_golden(GOLDEN.parent / name)
    back = to_tensors(weight_map_for(settings, family_of(settings)), parameters)
    assert set(back) == set(tensors)
    assert all(back[name].tobytes() == tensors[name].tobytes() for name in tensors)


def test_exported_directory_opens_unchanged(exported):
    folder, saved = exported
    opened = open_checkpoint(folder)
    assert opened.settings == saved.settings
    assert opened.scalars == saved.scalars
    assert opened.preprocessing == saved.preprocessing
    ours, theirs = (to_tensors(weight_map_for(c.settings, "siglip"), c.parameters) for c in (saved, opened))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    np.testing.assert_array_equal(opened.tokenizer(["a fish", ""]), saved.tokenizer(["a fish", ""]))


def test_clip_that_ends_texts_with_token_2_is_a_metaclip_2(tmp_path):
    checkpoint = tiny_checkpoint("clip")
    text = dataclasses.replace(checkpoint.settings.text, end_id=2)
    settings = dataclasses.replace(checkpoint.settings, text=text)
    folder = save_checkpoint(tmp_path / "model", checkpoint._replace(settings=settings))
    fields = json.loads((folder / "config.json").read_text())
    assert fields["architectures"] == ["MetaClip2Model"] and fields["text_config"]["eos_token_id"] == 2
    assert open_checkpoint(folder).settings == settings
    (folder / "config.json").write_text(json.dumps(fields | {"model_type": "clip"}))
    assert open_checkpoint(folder).settings.text.end_id is None  # CLIPModel takes the largest id of a text instead


def test_transformers_reads_the_exported_config(exported):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(exported[0])
    assert type(config).__name__ == "SiglipConfig"
    assert (config.vision_config.image_size, config.vision_config.hidden_size) == (14, 24)
    assert (config.text_config.projection_size, config.text_config.max_position_embeddings) == (24, 9)


@pytest.mark.parametrize(("family", "special"), [("clip", ("bos", "eos", "eos")), ("bert", ("cls", "sep", "pad"))])
def test_given_tokenizer_is_exported(exported, tmp_path, family, special):
    from transformers import AutoConfig, AutoTokenizer

    FAMILIES[family]().save_pretrained(tmp_path / "given")
    tokenizer = open_tokenizer(str(tmp_path / "given"), length=9, canonicalize="siglip")
    settings = tiny("siglip", vocab_size=tokenizer.vocab_size)
    checkpoint = exported[1]._replace(settings=settings, parameters=random_parameters(settings), tokenizer=tokenizer)
    folder = save_checkpoint(tmp_path / "export", checkpoint)
    np.testing.assert_array_equal(open_checkpoint(folder).tokenizer(TEXTS), tokenizer(TEXTS))
    theirs, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder).text_config
    np.testing.assert_array_equal(theirs(TEXTS, padding="max_length", truncation=True)["input_ids"], tokenizer(TEXTS))
    ids = [getattr(theirs, f"{name}_token_id") for name in special]
    assert [config.bos_token_id, config.eos_token_id, config.pad_token_id] == ids


def test_mismatched_image_size_is_rejected(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "export")
    (tmp_path / "export" / PREPROCESSOR_FILE).write_text(json.dumps(Preprocessing(size=16, crop=(16, 14)).to_json()))
    with pytest.raises(ValueError, match="gives images of 16 × 14 pixels, but the image tower takes 14 × 14"):
        open_checkpoint(tmp_path / "export")


def test_export_replaces_an_older_one_without_leftovers(exported, tmp_path):
    _, checkpoint = exported
    for _ in range(2):
        save_checkpoint(tmp_path / "export", checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_mismatched_tensors_are_listed(exported, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exported[0], folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["extra.weight"] = tensors.pop("text_model.head.weight")
    tensors["text_model.head.bias"] = tensors["text_model.head.bias"][:-1]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError) as error:
        open_checkpoint(folder)
    for part in ("missing text_model.head.weight", "unexpected extra.weight", "text_model.head.bias has shape [23]"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"])
def test_error_names_the_missing_file(exported, tmp_path, name):
    shutil.copytree(exported[0], tmp_path / "export")
    (tmp_path / "export" / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        open_checkpoint(tmp_path / "export")


def test_truncated_weights_file_is_rejected(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "export")
    path = tmp_path / "export" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        open_checkpoint(tmp_path / "export")


def test_other_architectures_are_rejected(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "export")
    path = tmp_path / "export" / "config.json"
    path.write_text(path.read_text().replace('"model_type": "siglip"', '"model_type": "bert"'))
    with pytest.raises(ValueError, match=r"model_type 'bert' is not supported.*`launch\.py align`"):
        open_checkpoint(tmp_path / "export")

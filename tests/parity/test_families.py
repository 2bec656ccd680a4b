"""Checkpoints of every family saved by transformers give the same outputs here as with transformers in PyTorch."""

import io
import json
import math
import pathlib
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from adapt.embedding.encoder import Encoder
from data.sources.open import open_source
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.io import open_checkpoint, save_checkpoint
from models.checkpoints.weight_map import set_path
from models.config import ModelSettings
from models.towers import create_model
from pretrain.losses.reference import normalize
from tests.models.tokenizer_families import FAMILIES, TEXTS
from tests.parity.test_huggingface import close

SHARED = pathlib.Path(__file__).parents[2] / "../shared/data/pretrain/flickr8k/dev-00000.tar"
CAPTIONS = [*TEXTS, "a dog " * 200, "日本語 и русский 👩‍🚀" * 9]
VISION = {
    "one layer": dict(hidden_size=40, intermediate_size=56, num_hidden_layers=1, num_attention_heads=5),
    "three layers": dict(hidden_size=72, intermediate_size=50, num_hidden_layers=3, num_attention_heads=3),
}
IMAGES = {"one layer": dict(image_size=27, patch_size=5), "three layers": dict(image_size=56, patch_size=14)}
IMAGES_378 = dict(image_size=384, patch_size=14)  # 27 × 27 patches and a remainder of 6 pixels
TEXT = {
    "one layer": dict(hidden_size=90, intermediate_size=130, num_hidden_layers=3, num_attention_heads=2),
    "three layers": dict(hidden_size=36, intermediate_size=28, num_hidden_layers=1, num_attention_heads=3),
}
KINDS = ("siglip", "siglip with Gemma's tokens", "clip", "clip of laion", "metaclip 2")
CLASSES = {
    "siglip": (SiglipConfig, SiglipModel),
    "clip": (CLIPConfig, CLIPModel),
    "metaclip": (MetaClip2Config, MetaClip2Model),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Real images: emoji, and photos if they are next to the repository."""
    source = open_source("emoji:noto", tmp_path_factory.mktemp("data"))
    images = [Image.open(io.BytesIO(source[index].image)).convert("RGB") for index in range(0, len(source), 400)]
    if SHARED.exists():
        with tarfile.open(SHARED) as archive:
            members = [member for member in archive if member.name.endswith(".jpg")][:4]
            images += [Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB") for member in members]
    return [image.resize((61, 43)) if number % 2 else image for number, image in enumerate(images)]


def build(kind, size, *, images=None):
    """Return a random model of transformers, its tokenizer and its image processor."""
    family = "siglip2" if "Gemma" in kind else "xlm" if kind == "metaclip 2" else kind.split()[0]
    tokenizer = FAMILIES[family]()
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    vocabulary = {"vocab_size": max(tokenizer.get_vocab().values()) + 1, "max_position_embeddings": 13}
    special = {f"{name}_token_id": value for name, value in ids.items()}
    images = images or IMAGES[size]
    vision, text = {**VISION[size], **images}, {**TEXT[size], **vocabulary, **special}
    torch.manual_seed(1)
    side = images["image_size"]
    squeeze = SiglipImageProcessorPil(size={"height": side, "width": side})
    if "clip" in kind:
        act = {"hidden_act": "gelu"} if "laion" in kind else {}
        legacy = {"eos_token_id": 2} if kind == "clip" else {}
        config_class, model_class = CLASSES[kind.split()[0]]
        config = config_class(text_config=text | act | legacy, vision_config=vision | act, projection_dim=18)
        crop = CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_convert_rgb=True
        )
        return randomized(model_class(config)), tokenizer, crop
    text["projection_size"] = vision["hidden_size"]
    return randomized(SiglipModel(SiglipConfig(text_config=text, vision_config=vision))), tokenizer, squeeze


def randomized(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def save(folder, model, tokenizer, processor, **options):
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tokens_of(kind, tokenizer):
    """Return token ids, with the options in the documentation of the model class."""
    return tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=13, return_tensors="pt")["input_ids"]


def pixels_of(processor, pictures):
    return processor(pictures, return_tensors="pt")["pixel_values"]


def outputs(model, tokens, pixels):
    """Return image embeddings, text embeddings and logits of transformers."""
    inputs = {"pixel_values": pixels}
    with torch.no_grad():
        found = model(input_ids=tokens, **inputs)
        texts = model.get_text_features(input_ids=tokens).pooler_output
        images = model.get_image_features(**inputs).pooler_output
    return images.numpy(), texts.numpy(), found.logits_per_image.numpy()


@pytest.mark.parametrize("size", VISION)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_embeddings_and_logits_equal_those_of_transformers(tmp_path, pictures, kind, size):
    model, tokenizer, processor = build(kind, size)
    save(tmp_path, model, tokenizer, processor)
    compare(tmp_path, kind, pictures)


def test_remainder_of_patches_is_dropped_as_in_transformers(tmp_path, pictures):
    model, tokenizer, processor = build("siglip", "one layer", images=IMAGES_378)
    save(tmp_path, model, tokenizer, processor)
    compare(tmp_path, "siglip", pictures[:3])


def compare(folder, kind, pictures):
    model, tokenizer, processor = reopened(kind, folder)
    tokens, pixels = tokens_of(kind, tokenizer), pixels_of(processor, pictures)
    images, texts, logits = outputs(model, tokens, pixels)
    encoder = Encoder(folder)
    np.testing.assert_array_equal(encoder.tokenizer(CAPTIONS), tokens)
    ours = encoder.embed_images(lambda index: pictures[index], len(pictures)), encoder.embed_texts(CAPTIONS)
    close(ours[0], images, 1e-5)
    close(ours[1], texts, 1e-5)
    scalars = open_checkpoint(folder).scalars
    found = math.exp(scalars["logit_scale"]) * normalize(ours[0]) @ normalize(ours[1]).T + scalars["logit_bias"]
    close(found, logits, 1e-5)
    assert np.ptp(logits, axis=0).min() > 1e-3 and np.ptp(logits, axis=1).max() > 1e-3  # both inputs matter


def reopened(kind, folder):
    """Open a folder with transformers alone."""
    from transformers import AutoTokenizer

    family = CLASSES[kind.split()[0]][1]
    processor = CLIPImageProcessorPil if "clip" in kind else SiglipImageProcessorPil
    model = family.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder), processor.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["siglip", "clip", "metaclip 2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_checkpoint_of_transformers_round_trips_byte_for_byte(tmp_path, kind, dtype):
    model, tokenizer, processor = build(kind, "three layers")
    model = model.to(getattr(torch, dtype))
    save(tmp_path / "theirs", model, tokenizer, processor, max_shard_size="40KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    opened = open_checkpoint(tmp_path / "theirs")
    assert opened.dtype == dtype
    save_checkpoint(tmp_path / "ours", opened)
    save(tmp_path / "whole", model, tokenizer, processor)
    ours, theirs = (contents(tmp_path / name / "model.safetensors") for name in ("ours", "whole"))
    assert set(ours) == set(theirs)
    assert all(ours[name] == theirs[name] for name in theirs)
    type(model).from_pretrained(tmp_path / "ours")
    _, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info


def contents(path):
    """Return name → (dtype, shape, bytes) of a safetensors file; works for every dtype."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    cut = {name: slice(*(8 + length + offset for offset in entry["data_offsets"])) for name, entry in header.items()}
    return {name: (entry["dtype"], entry["shape"], raw[cut[name]]) for name, entry in header.items()}


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_oblong_grid_equals_transformers(tmp_path, kind):
    model, tokenizer, processor = build(kind, "three layers")
    save(tmp_path, model, tokenizer, processor)
    pixels = torch.randn(3, 3, 42, 70)  # 3 × 5 patches
    with torch.no_grad():
        theirs = model.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True).pooler_output
        embeddings = model.vision_model.embeddings
        positions = embeddings.interpolate_pos_encoding(torch.empty(1, 16, 72), 42, 70)[0]
    found = describe_checkpoint(tmp_path, image_size=(42, 70))
    parameters = found.read()
    assert parameters["vision"]["position_embedding"].shape == positions.shape
    set_path(parameters, "vision/position_embedding", positions.numpy())  # as transformers resamples them
    settings: ModelSettings = found.settings
    ours = create_model(settings).embed_images(parameters, pixels.numpy().transpose(0, 2, 3, 1))
    close(ours, theirs, 1e-5)


def test_position_ids_of_old_checkpoints_are_ignored(tmp_path):
    from safetensors.numpy import save_file

    save(tmp_path, *build("clip", "one layer"))
    path = tmp_path / "model.safetensors"
    tensors = load_file(path) | {"text_model.embeddings.position_ids": np.arange(13)[None]}
    save_file(tensors, path)
    (tmp_path / "SHA256SUMS").unlink(missing_ok=True)
    assert open_checkpoint(tmp_path).settings.text.length == 13

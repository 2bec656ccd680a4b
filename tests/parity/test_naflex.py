"""SigLIP 2 of variable resolution (NaFlex) gives the same outputs here as `Siglip2Model` of transformers in PyTorch."""

import io
import math
import pathlib
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoTokenizer,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipImageProcessorPil,
    SiglipModel,
)

from adapt.embedding.encoder import Encoder
from models.checkpoints.io import open_checkpoint, save_checkpoint
from models.naflex import resize_positions
from pretrain.losses.reference import normalize
from tests.models.tokenizer_families import FAMILIES
from tests.parity.test_families import CAPTIONS, contents, randomized, save
from tests.parity.test_huggingface import close

PHOTOS = pathlib.Path(__file__).parents[2] / "../shared/data/targets/caltech101/test-00000.tar"
ASPECTS = (1.0, 0.2, 5.0, 0.7, 1.78, 0.05, 2.3, 0.45, 14.0, 1.33)  # height over width
SIZES = {
    "one layer": dict(hidden_size=40, intermediate_size=56, num_hidden_layers=1, num_attention_heads=5),
    "three layers": dict(hidden_size=72, intermediate_size=50, num_hidden_layers=3, num_attention_heads=3),
}
GRIDS = {"one layer": dict(patch_size=5, num_patches=36), "three layers": dict(patch_size=16, num_patches=256)}
PATCHES = {"one layer": 50, "three layers": 256}


@pytest.fixture(scope="module")
def photos():
    """Return 50 photos, cropped to odd aspect ratios."""
    if not PHOTOS.exists():
        pytest.skip(f"the photos of Caltech-101 are not at {PHOTOS}")
    with tarfile.open(PHOTOS) as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][:50]
        images = [Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB") for member in members]
    assert len(images) == 50
    return [crop(image, ASPECTS[number % len(ASPECTS)]) for number, image in enumerate(images)]


def crop(image, aspect):
    width, height = image.size
    if height > aspect * width:
        return image.crop((0, 0, width, max(1, round(aspect * width))))
    return image.crop((0, 0, max(1, round(height / aspect)), height))


def build(size):
    """Return a random model, its tokenizer and its image processor."""
    tokenizer = FAMILIES["siglip2"]()
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    text = dict(hidden_size=36, intermediate_size=28, num_hidden_layers=2, num_attention_heads=3, **ids)
    text |= {"vocab_size": max(tokenizer.get_vocab().values()) + 1, "max_position_embeddings": 13}
    text["projection_size"] = SIZES[size]["hidden_size"]
    torch.manual_seed(1)
    model = randomized(Siglip2Model(Siglip2Config(text_config=text, vision_config=SIZES[size] | GRIDS[size])))
    patch_size = GRIDS[size]["patch_size"]
    return model, tokenizer, Siglip2ImageProcessorPil(patch_size=patch_size, max_num_patches=PATCHES[size])


def outputs(model, tokens, pixels):
    """Return image embeddings, text embeddings and logits of transformers."""
    with torch.no_grad():
        images = model.get_image_features(**pixels).pooler_output
        found = model(input_ids=tokens, **pixels)
        texts = model.get_text_features(input_ids=tokens).pooler_output
    return images.float().numpy(), texts.float().numpy(), found.logits_per_image.float().numpy()


def tokens_of(tokenizer):
    return tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=13, return_tensors="pt")["input_ids"]


@pytest.mark.parametrize("size", SIZES)
def test_photos_of_odd_aspect_ratios_and_texts_embed_as_in_transformers(tmp_path, photos, size):
    model, tokenizer, processor = build(size)
    save(tmp_path, model, tokenizer, processor)
    pixels, tokens = processor(photos, return_tensors="pt"), tokens_of(tokenizer)
    assert len({tuple(shape) for shape in pixels["spatial_shapes"].tolist()}) >= 8
    images, texts, logits = outputs(model, tokens, pixels)
    encoder = Encoder(tmp_path)
    np.testing.assert_array_equal(encoder.tokenizer(CAPTIONS), tokens)
    ours = encoder.embed_images(photos), encoder.embed_texts(CAPTIONS)
    close(ours[0], images, 1e-5)
    close(ours[1], texts, 1e-5)
    scalars = open_checkpoint(tmp_path).scalars
    found = math.exp(scalars["logit_scale"]) * normalize(ours[0]) @ normalize(ours[1]).T + scalars["logit_bias"]
    close(found, logits, 1e-5)
    assert np.ptp(images, axis=0).min() > 1e-3


def test_another_number_of_patches_equals_that_of_the_processor(tmp_path, photos):
    model, tokenizer, processor = build("one layer")
    save(tmp_path, model, tokenizer, processor)
    pixels = processor(photos[:20], max_num_patches=117, return_tensors="pt")
    close(
        Encoder(tmp_path, max_patches=117).embed_images(photos[:20]),
        outputs(model, tokens_of(tokenizer), pixels)[0],
        1e-5,
    )


def test_bfloat16_is_as_close_to_float32_as_that_of_transformers(tmp_path, photos):
    model, tokenizer, processor = build("one layer")
    save(tmp_path, model, tokenizer, processor)
    pixels, tokens = processor(photos, return_tensors="pt"), tokens_of(tokenizer)
    exact = outputs(model, tokens, pixels)[0]
    theirs = np.abs(outputs(model.to(torch.bfloat16), tokens, pixels)[0] - exact).mean()
    ours = np.abs(Encoder(tmp_path, dtype="bfloat16").embed_images(photos) - exact).mean()
    assert 0 < ours < 1.5 * theirs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpoint_round_trips_byte_for_byte_and_opens_in_transformers(tmp_path, dtype):
    model, tokenizer, processor = build("three layers")
    save(tmp_path / "theirs", model.to(getattr(torch, dtype)), tokenizer, processor)
    save_checkpoint(tmp_path / "ours", open_checkpoint(tmp_path / "theirs"))
    assert contents(tmp_path / "ours/model.safetensors") == contents(tmp_path / "theirs/model.safetensors")
    reopened, info = AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert isinstance(reopened, Siglip2Model) and not any(info.values()), info
    assert reopened.config.vision_config.num_patches == 256
    again = Siglip2ImageProcessorPil.from_pretrained(tmp_path / "ours")
    for name in ("patch_size", "max_num_patches", "resample", "image_mean", "image_std", "rescale_factor"):
        assert getattr(again, name) == getattr(processor, name)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "ours")
    np.testing.assert_array_equal(tokens_of(tokens), tokens_of(tokenizer))


def test_image_size_makes_the_siglip_model_of_that_resolution(tmp_path, photos):
    model, tokenizer, processor = build("one layer")
    save(tmp_path / "naflex", model, tokenizer, processor)
    fixed_folder = save_checkpoint(tmp_path / "fixed", open_checkpoint(tmp_path / "naflex", image_size=40))
    fixed = SiglipModel.from_pretrained(fixed_folder).eval()
    square = [photo.resize((40, 40), Image.Resampling.BILINEAR) for photo in photos[:8]]  # whole patches: 8 × 8
    pixels = SiglipImageProcessorPil.from_pretrained(fixed_folder)(photos[:8], return_tensors="pt")
    tokens = tokens_of(tokenizer)
    theirs = outputs(model, tokens, processor(square, max_num_patches=64, return_tensors="pt"))
    for a, b in zip(outputs(fixed, tokens, pixels), theirs, strict=True):
        close(a, b, 1e-5)


def test_position_embeddings_are_resized_as_by_pytorch():
    table = torch.randn(16, 16, 6, generator=torch.Generator().manual_seed(0))
    grids = [[16, 16], [3, 85], [85, 3], [1, 256], [20, 12], [7, 7], [40, 6]]
    found = resize_positions(table.reshape(256, 6).numpy(), np.array(grids), old=(16, 16), slots=256)
    for positions, grid in zip(np.asarray(found), grids, strict=True):
        options = dict(size=grid, mode="bilinear", align_corners=False, antialias=True)
        theirs = torch.nn.functional.interpolate(table.permute(2, 0, 1)[None], **options)
        theirs = theirs[0].flatten(1).T
        np.testing.assert_allclose(positions[: len(theirs)], theirs, atol=2e-6)

"""Checkpoints of open_clip opened here, and ours opened by open_clip. Skipped if open_clip is not installed.

`requirements-bench.txt` installs it. `python -m tests.parity.test_open_clip` writes tests/models/golden_open_clip.
"""

import json
import math
import pathlib

import numpy as np
import pytest

try:
    import open_clip
    import torch
    from open_clip.convert import load_big_vision_weights
except (ImportError, RuntimeError) as missing:  # torchvision raises RuntimeError if it does not match torch
    pytest.skip(f"open_clip cannot be imported ({missing}); install requirements-bench.txt", allow_module_level=True)

from safetensors.numpy import load_file

from models.checkpoints.big_vision import save_big_vision
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.weight_map import parameter_shapes
from models.config import ModelSettings, TextSettings, VisionSettings
from models.towers import create_model
from tests.models.tiny_models import random_parameters

SCALARS = {"logit_scale": 2.5, "logit_bias": -3.5}
GOLDEN = pathlib.Path(__file__).parents[1] / "models" / "golden_open_clip"
TEXT = {"context_length": 9, "vocab_size": 70, "width": 20, "heads": 2, "layers": 2}
TINY = {
    "embed_dim": 20,
    "vision_cfg": {
        "image_size": [21, 28],
        "layers": 2,
        "width": 24,
        "head_width": 8,
        "mlp_ratio": 3.3,
        "patch_size": 7,
    },
    "text_cfg": TEXT,
}
SQUASH = {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}
CLIPS = {
    "default": TINY,
    "quick": {**TINY, "quick_gelu": True},
    "custom text tower": {**TINY, "custom_text": True, "text_cfg": {**TEXT, "proj_bias": True, "pool_type": "last"}},
    "no mask": {**TINY, "text_cfg": {**TEXT, "no_causal_mask": True, "act_kwargs": {"approximate": "tanh"}}},
    "no pre-norm": {**TINY, "vision_cfg": {**TINY["vision_cfg"], "no_ln_pre": True, "norm_kwargs": {"eps": 1e-3}}},
}
AVERAGE = {**TINY["vision_cfg"], "no_ln_pre": True, "pool_type": "avg"}
CLIPS |= {
    "CLIPA": {
        **TINY,
        "vision_cfg": {**AVERAGE, "final_ln_after_pool": True},
        "text_cfg": {**TEXT, "pool_type": "last", "no_causal_mask": True},
    },
    "OpenVision": {
        **TINY,
        "vision_cfg": {**AVERAGE, "final_ln_after_pool": True, "norm_kwargs": {"eps": 1e-6}},
        "text_cfg": {
            **TEXT,
            "pool_type": "last",
            "no_causal_mask": True,
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    },
    "average after the norm": {**TINY, "vision_cfg": AVERAGE},
    "fixed positions": {**TINY, "vision_cfg": {**AVERAGE, "image_size": 21, "pos_embed_type": "sin_cos_2d"}},
    "class token, norm after pooling": {**TINY, "vision_cfg": {**TINY["vision_cfg"], "final_ln_after_pool": True}},
}
SIGLIP = {
    "embed_dim": 768,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"},
    "text_cfg": {
        "context_length": 9,
        "vocab_size": 70,
        "width": 48,
        "heads": 3,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}
SIGLIP["vision_cfg"]["timm_proj"] = "none"


def build(config):
    """Return the model of open_clip for a config, with random weights."""
    custom = config.get("custom_text", False)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(
        **{key: value for key, value in config.items() if key != "custom_text"}
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def save(folder, config, model):
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    fields = {"model_cfg": config, "preprocess_cfg": SQUASH}
    (folder / "open_clip_config.json").write_text(json.dumps(fields, indent=2) + "\n")
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )


def inputs(config):
    size = config["vision_cfg"]["image_size"]
    height, width = size if isinstance(size, list) else (size, size)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 70, (4, 9))
    tokens[:, 5] = 69
    return rng.normal(size=(3, height, width, 3)).astype("f4"), tokens


def by_open_clip(model, pixels, tokens):
    with torch.no_grad():
        images = model.encode_image(torch.tensor(pixels.transpose(0, 3, 1, 2)))
        texts = model.encode_text(torch.tensor(tokens))
    return images.numpy(), texts.numpy()


def close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("name", CLIPS)
def test_clip_embeddings_equal_those_of_open_clip(tmp_path, name):
    config = CLIPS[name]
    model = build(config)
    save(tmp_path, config, model)
    check_embeddings(tmp_path, config, model)


@pytest.mark.parametrize(
    ("name", "size", "activation"),
    [("vit_base_patch16_siglip_224", 224, "gelu"), ("vit_base_patch32_siglip_256", 256, "gelu_tanh")],
)
def test_siglip_embeddings_with_a_timm_tower_equal_those_of_open_clip(tmp_path, name, size, activation):
    changed = {"timm_model_name": name, "image_size": size}
    config = {**SIGLIP, "vision_cfg": {**SIGLIP["vision_cfg"], **changed}}
    model = build(config)
    save(tmp_path, config, model)
    check_embeddings(tmp_path, config, model)
    description = describe_checkpoint(tmp_path)
    assert description.has_logit_bias and description.settings.vision.activation == activation


def check_embeddings(folder, config, model):
    pixels, tokens = inputs(config)
    description = describe_checkpoint(folder)
    ours, parameters = create_model(description.settings), description.read()
    images, texts = by_open_clip(model, pixels, tokens)
    close(ours.embed_images(parameters, pixels), images)
    close(ours.embed_texts(parameters, tokens), texts)
    assert math.isclose(description.scalars()["logit_scale"], model.logit_scale.item(), rel_tol=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_npz_gives_the_same_embeddings_in_open_clip(tmp_path, activation):
    config = json.loads(json.dumps(SIGLIP))
    if activation == "gelu_tanh":  # the activation of SigLIP, which open_clip uses for texts only if configured
        config["text_cfg"]["act_kwargs"] = {"approximate": "tanh"}
    settings = ModelSettings(
        vision=VisionSettings(
            image_size=224, patch_size=16, width=768, depth=12, heads=12, mlp_width=3072, activation=activation
        ),
        text=TextSettings(
            vocab_size=70,
            length=9,
            width=48,
            depth=2,
            heads=3,
            mlp_width=192,
            activation=activation,
        ),
    )
    parameters = random_parameters(settings, scale=0.1)
    path = save_big_vision(tmp_path / "w.npz", settings, parameters=parameters, scalars=SCALARS)
    model = build(config)
    load_big_vision_weights(model, str(path))
    if activation == "gelu_tanh":
        for module in model.visual.modules():
            if isinstance(module, torch.nn.GELU):
                module.approximate = "tanh"
    pixels, tokens = inputs(config)
    images, texts = by_open_clip(model, pixels, tokens)
    ours = create_model(settings)
    close(ours.embed_images(parameters, pixels), images)
    close(ours.embed_texts(parameters, tokens), texts)
    assert (model.logit_scale.item(), model.logit_bias.item()) == (2.5, -3.5)


def test_golden_outputs_equal_those_of_the_installed_open_clip():
    config = json.loads((GOLDEN / "open_clip_config.json").read_text())["model_cfg"]
    model, golden = build(config), np.load(GOLDEN / "outputs.npz")
    tensors = load_file(GOLDEN / "open_clip_model.safetensors")
    model.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()}, strict=False)
    images, texts = by_open_clip(model, golden["pixels"], golden["tokens"])
    close(images, golden["image_embeddings"])
    close(texts, golden["text_embeddings"])


def test_every_parameter_has_an_entry(tmp_path):
    for config in (TINY, SIGLIP):
        save(tmp_path, config, build(config))
        description = describe_checkpoint(tmp_path)
        assert {entry.path for entry in description.weight_map.entries} == set(parameter_shapes(description.settings))


def main() -> None:
    config = CLIPS["quick"]
    model = build(config)
    save(GOLDEN, config, model)
    pixels, tokens = inputs(config)
    images, texts = by_open_clip(model, pixels, tokens)
    np.savez_compressed(
        GOLDEN / "outputs.npz", pixels=pixels, tokens=tokens, image_embeddings=images, text_embeddings=texts
    )


if __name__ == "__main__":
    main()

"""The two-way map to `SiglipModel` and `CLIPModel` of transformers: their `config.json` and the names of their tensors.

`Siglip2Model`, which takes images of any shape in patches, is opened as the `SiglipModel` that it is on a square grid.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from foundation.error_text import one_line
from foundation.safe_json import read_json
from models.checkpoints.weight_map import Entry, Layout, convolution, linear, linears, norm
from models.config import ModelSettings, TextSettings, VisionSettings

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
SIGLIP, SIGLIP2, CLIP = "siglip", "siglip2", "clip"
MODEL_TYPES = (SIGLIP, SIGLIP2, CLIP)

_ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
}
_LARGEST_ID = 2  # the end token's id by which CLIPModel knows that the largest id ends a text


def family_of(settings: ModelSettings) -> str:
    """Returns "siglip" or "clip"; raises `ValueError` for towers that neither class of transformers describes."""
    vision, text = settings.vision, settings.text
    for family, vision_like, text_like in (
        (SIGLIP, ("attention", False, True, False), ("last", False, True)),
        (CLIP, ("class", True, False, True), ("end", True, False)),
    ):
        if (vision.pooling, vision.pre_norm, vision.patch_bias, vision.projection is not None) == vision_like and (
            text.pooling,
            text.causal,
            text.projection_bias,
        ) == text_like:
            return family
    raise ValueError(
        "these towers mix what SiglipModel and CLIPModel have (pooling, pre_norm, biases, projection, causal), and "
        "neither can hold them"
    )


def layout_of(settings: ModelSettings, family: str) -> Layout:
    """Returns the tensors of a class of transformers, one of `MODEL_TYPES`, for towers of these settings."""
    entries = _clip(settings) if family == CLIP else _siglip(settings, patches_are_cut=family == SIGLIP2)
    scalars = {"logit_scale": "logit_scale"} | ({} if family == CLIP else {"logit_bias": "logit_bias"})
    return Layout(tuple(entries), scalars, scalar_shape=() if family == CLIP else (1,))


def _siglip(settings: ModelSettings, *, patches_are_cut: bool) -> Iterator[Entry]:
    vision, text = settings.vision, settings.text
    embeddings, path = "vision_model.embeddings", "vision/patch_embedding"
    if patches_are_cut:
        yield from linear(f"{embeddings}.patch_embedding", path)
    else:
        yield from convolution(f"{embeddings}.patch_embedding", path, vision.patch_size, vision.width, bias=True)
    yield Entry(f"{embeddings}.position_embedding.weight", "vision/position_embedding")
    yield from _encoder("vision_model.encoder", "vision/encoder", vision.depth)
    yield from norm("vision_model.post_layernorm", "vision/encoder/norm")
    head = "vision_model.head"
    yield Entry(f"{head}.probe", "vision/head/probe")
    attention = ("vision/head/attention", ("query", "key", "value"))
    yield from linears("in_proj_weight", "in_proj_bias", *attention, before=f"{head}.attention.")
    yield from linear(f"{head}.attention.out_proj", "vision/head/attention/out")
    yield from norm(f"{head}.layernorm", "vision/head/norm")
    yield from linear(f"{head}.mlp.fc1", "vision/head/mlp/up")
    yield from linear(f"{head}.mlp.fc2", "vision/head/mlp/down")
    yield from _text(text)
    yield from linear("text_model.head", "text/head")


def _clip(settings: ModelSettings) -> Iterator[Entry]:
    vision, text = settings.vision, settings.text
    embeddings = "vision_model.embeddings"
    yield Entry(f"{embeddings}.class_embedding", "vision/class_embedding")
    yield from convolution(
        f"{embeddings}.patch_embedding", "vision/patch_embedding", vision.patch_size, vision.width, bias=False
    )
    yield Entry(f"{embeddings}.position_embedding.weight", "vision/position_embedding")
    yield from norm("vision_model.pre_layrnorm", "vision/pre_norm")
    yield from _encoder("vision_model.encoder", "vision/encoder", vision.depth)
    yield from norm("vision_model.post_layernorm", "vision/encoder/norm")
    yield from linear("visual_projection", "vision/projection", bias=False)
    yield from _text(text)
    yield from linear("text_projection", "text/head", bias=False)


def _text(text: TextSettings) -> Iterator[Entry]:
    yield Entry("text_model.embeddings.token_embedding.weight", "text/token_embedding")
    yield Entry("text_model.embeddings.position_embedding.weight", "text/position_embedding")
    yield from _encoder("text_model.encoder", "text/encoder", text.depth)
    yield from norm("text_model.final_layer_norm", "text/encoder/norm")


def _encoder(name: str, path: str, depth: int) -> Iterator[Entry]:
    for layer in range(depth):
        prefix, stacked = f"{name}.layers.{layer}", f"{path}/layers"
        yield from norm(f"{prefix}.layer_norm1", f"{stacked}/norm1", layer)
        for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
            yield from linear(f"{prefix}.self_attn.{theirs}", f"{stacked}/attention/{ours}", layer)
        yield from norm(f"{prefix}.layer_norm2", f"{stacked}/norm2", layer)
        yield from linear(f"{prefix}.mlp.fc1", f"{stacked}/mlp/up", layer)
        yield from linear(f"{prefix}.mlp.fc2", f"{stacked}/mlp/down", layer)


def read_config(path: pathlib.Path) -> tuple[str, ModelSettings]:
    """Returns the model type, one of `MODEL_TYPES`, and the settings that a `config.json` describes.

    What it does not say is as transformers has it. Raises `ValueError` for what is no such model.
    """
    from transformers import CLIPConfig, Siglip2Config, SiglipConfig

    classes = {SIGLIP: SiglipConfig, SIGLIP2: Siglip2Config, CLIP: CLIPConfig}
    fields = read_json(path)
    kind = fields.get("model_type")
    if kind not in classes:
        raise ValueError(f"{path}: model_type {kind!r} is not read here; {', '.join(MODEL_TYPES)} are")
    try:
        with _quiet_transformers():  # it warns of ids that are no ids of the default vocabulary
            config = classes[kind].from_dict(fields)
        vision, text = config.vision_config, config.text_config
        if kind == CLIP:
            return kind, _clip_settings(config)
        side = vision.image_size if kind == SIGLIP else math.isqrt(vision.num_patches) * vision.patch_size
        if not vision.vision_use_head:
            raise ValueError("vision_use_head is False; towers without a pooling head are not read here")
        settings = ModelSettings(
            vision=VisionSettings(image_size=side, patch_size=vision.patch_size, **_tower(vision)),
            text=TextSettings(vocab_size=text.vocab_size, length=text.max_position_embeddings, **_tower(text)),
        )
        if text.projection_size != settings.dim:
            raise ValueError(f"texts have {text.projection_size} dimensions and images {settings.dim}")
        return kind, settings
    except Exception as error:  # what a class of transformers refuses, it refuses in many ways
        raise ValueError(f"{path}: {one_line(error)}") from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _clip_settings(config: Any) -> ModelSettings:
    vision, text = config.vision_config, config.text_config
    end = text.eos_token_id
    if isinstance(end, list):
        raise ValueError(f"text_config.eos_token_id is {end}; one end token is read here")
    return ModelSettings(
        vision=VisionSettings(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            pooling="class",
            pre_norm=True,
            patch_bias=False,
            projection=config.projection_dim,
            **_tower(vision),
        ),
        text=TextSettings(
            vocab_size=text.vocab_size,
            length=text.max_position_embeddings,
            pooling="end",
            end_id=None if end == _LARGEST_ID else end,
            causal=True,
            projection_bias=False,
            **_tower(text),
        ),
    )


def _tower(section: Any) -> dict[str, Any]:
    if section.hidden_act not in _ACTIVATIONS:
        raise ValueError(f"hidden_act {section.hidden_act!r} is not read here; {', '.join(_ACTIVATIONS)} are")
    return {
        "width": section.hidden_size,
        "mlp_width": section.intermediate_size,
        "depth": section.num_hidden_layers,
        "heads": section.num_attention_heads,
        "activation": _ACTIVATIONS[section.hidden_act],
        "norm_epsilon": section.layer_norm_eps,
    }


def to_config(
    settings: ModelSettings, *, start_id: int | None, end_id: int | None, pad_id: int, dtype: str
) -> dict[str, Any]:
    """Returns the `config.json` of `SiglipModel` or `CLIPModel`; raises `ValueError` for what neither can hold."""
    family = family_of(settings)
    vision, text = settings.vision, settings.text
    if vision.image_shape[0] != vision.image_shape[1]:
        raise ValueError(f"images of {vision.image_shape} are no squares, which transformers' classes ask for")
    if family == CLIP:
        if text.end_id == _LARGEST_ID:
            raise ValueError(f"CLIPModel cannot end texts with the token {_LARGEST_ID}")
        end_id = _LARGEST_ID if text.end_id is None else text.end_id
    projection = {"projection_dim" if family == CLIP else "projection_size": settings.dim}
    return {
        "architectures": ["CLIPModel" if family == CLIP else "SiglipModel"],
        "model_type": family,
        "dtype": dtype,
        "initializer_factor": 1.0,
        **(projection if family == CLIP else {}),
        "vision_config": {
            **_to_tower(vision),
            "model_type": f"{family}_vision_model",
            "num_channels": 3,
            "image_size": vision.image_shape[0],
            "patch_size": vision.patch_size,
            **(projection if family == CLIP else {}),
        },
        "text_config": {
            **_to_tower(text),
            "model_type": f"{family}_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.length,
            **projection,
            "pad_token_id": pad_id,
            "bos_token_id": start_id,
            "eos_token_id": end_id,
        },
    }


def _to_tower(tower: VisionSettings | TextSettings) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "hidden_act": names[tower.activation],
        "layer_norm_eps": tower.norm_epsilon,
        "attention_dropout": 0.0,
    }

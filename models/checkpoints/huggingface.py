"""The format of `SiglipModel`, `Siglip2Model` and `CLIPModel` of transformers: `config.json` and names of tensors.

`Siglip2Model` is the SigLIP 2 that takes the patches of images of any aspect ratio (NaFlex): settings with
`vision.max_patches`. A SigLIP 2 of fixed resolution is a `SiglipModel`. `MetaClip2Model` has the tensors of
`CLIPModel`, and takes the end token 2 literally, which means the largest id of a text to `CLIPModel`.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from foundation.error_text import one_line
from foundation.files.safe_json import read_json
from models.checkpoints.weight_map import WeightEntry, WeightMap, convolution, fused_linears, linear, norm
from models.config import ModelSettings, TextSettings, VisionSettings

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
SIGLIP, SIGLIP2, CLIP, METACLIP2 = "siglip", "siglip2", "clip", "metaclip_2"
MODEL_TYPES = (SIGLIP, SIGLIP2, CLIP, METACLIP2)

_ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
}
_END_IS_LARGEST_ID = 2  # CLIPModel takes this eos_token_id to mean that the largest id of a text is its end


_ARCHITECTURES = {
    SIGLIP: "SiglipModel",
    SIGLIP2: "Siglip2Model",
    CLIP: "CLIPModel",
    METACLIP2: "MetaClip2Model",
}
_WITHOUT_TOWERS = (
    "Compute features with the library of the model, and train heads on them with `launch.py align` or use them with "
    "`evaluate --features`."
)

# What tells the families apart, in the order of `family_of`.
_FAMILY_TRAITS = {
    SIGLIP: (("attention", False, True, False), ("last", False, True)),
    CLIP: (("class", True, False, True), ("end", True, False)),
}


def family_of(settings: ModelSettings) -> str:
    """Return "siglip" or "clip"; raise `ValueError` for towers that neither `SiglipModel` nor `CLIPModel` can hold."""
    vision, text = settings.vision, settings.text
    if text is None or not isinstance(vision, VisionSettings):
        raise ValueError(
            "the model embeds images only, so neither SiglipModel, CLIPModel nor an .npz of big_vision can hold it. "
            "`launch.py convert` copies it to a folder."
        )
    traits = (
        (vision.pooling, vision.pre_norm, vision.patch_bias, vision.projection is not None),
        (text.pooling, text.causal, text.projection_bias),
    )
    for family, family_traits in _FAMILY_TRAITS.items():
        if traits == family_traits:
            return family
    raise ValueError(
        "the towers mix settings of SiglipModel and CLIPModel (pooling, pre_norm, biases, projection, causal) or pool "
        "by the average, as CLIPA and OpenVision, and neither class can hold them. Use the settings of one family."
    )


def model_type_of(settings: ModelSettings) -> str:
    """Return the one of `MODEL_TYPES` that holds towers with these settings; raises as `family_of`."""
    family = family_of(settings)
    if family == CLIP and settings.text.end_id == _END_IS_LARGEST_ID:
        return METACLIP2
    return SIGLIP2 if family == SIGLIP and settings.vision.max_patches is not None else family


def architecture_of(settings: ModelSettings) -> str:
    """Return the class of transformers that holds towers with these settings; raises as `family_of`."""
    return _ARCHITECTURES[model_type_of(settings)]


def weight_map_for(settings: ModelSettings, model_type: str) -> WeightMap:
    """Return the tensors of a model of transformers, one of `MODEL_TYPES`, with these settings."""
    if model_type in (CLIP, METACLIP2):
        return WeightMap(tuple(_clip(settings)), {"logit_scale": "logit_scale"}, scalar_shape=())
    vision, name, path = settings.vision, "vision_model.embeddings.patch_embedding", "vision/patch_embedding"
    if model_type == SIGLIP2:
        patch_embedding = linear(name, path)
    else:
        patch_embedding = convolution(name, path, patch_size=vision.patch_size, width=vision.width, bias=True)
    scalars = {"logit_scale": "logit_scale", "logit_bias": "logit_bias"}
    return WeightMap((*patch_embedding, *_siglip(settings)), scalars)


def _siglip(settings: ModelSettings) -> Iterator[WeightEntry]:
    """Yield the entries of a SigLIP except those of the patch embedding."""
    vision, text = settings.vision, settings.text
    embeddings = "vision_model.embeddings"
    yield WeightEntry(f"{embeddings}.position_embedding.weight", "vision/position_embedding")
    yield from _encoder("vision_model.encoder", "vision/encoder", vision.depth)
    yield from norm("vision_model.post_layernorm", "vision/encoder/norm")
    head = "vision_model.head"
    yield WeightEntry(f"{head}.probe", "vision/head/probe")
    yield from fused_linears(
        f"{head}.attention.in_proj_weight",
        f"{head}.attention.in_proj_bias",
        path="vision/head/attention",
        parts=("query", "key", "value"),
    )
    yield from linear(f"{head}.attention.out_proj", "vision/head/attention/out")
    yield from norm(f"{head}.layernorm", "vision/head/norm")
    yield from linear(f"{head}.mlp.fc1", "vision/head/mlp/up")
    yield from linear(f"{head}.mlp.fc2", "vision/head/mlp/down")
    yield from _text(text)
    yield from linear("text_model.head", "text/head")


def _clip(settings: ModelSettings) -> Iterator[WeightEntry]:
    vision, text = settings.vision, settings.text
    embeddings = "vision_model.embeddings"
    yield WeightEntry(f"{embeddings}.class_embedding", "vision/class_embedding")
    yield from convolution(
        f"{embeddings}.patch_embedding",
        "vision/patch_embedding",
        patch_size=vision.patch_size,
        width=vision.width,
        bias=False,
    )
    yield WeightEntry(f"{embeddings}.position_embedding.weight", "vision/position_embedding")
    yield from norm("vision_model.pre_layrnorm", "vision/pre_norm")
    yield from _encoder("vision_model.encoder", "vision/encoder", vision.depth)
    yield from norm("vision_model.post_layernorm", "vision/encoder/norm")
    yield from linear("visual_projection", "vision/projection", bias=False)
    yield from _text(text)
    yield from linear("text_projection", "text/head", bias=False)


def _text(text: TextSettings) -> Iterator[WeightEntry]:
    yield WeightEntry("text_model.embeddings.token_embedding.weight", "text/token_embedding")
    yield WeightEntry("text_model.embeddings.position_embedding.weight", "text/position_embedding")
    yield from _encoder("text_model.encoder", "text/encoder", text.depth)
    yield from norm("text_model.final_layer_norm", "text/encoder/norm")


def _encoder(name: str, path: str, depth: int) -> Iterator[WeightEntry]:
    for layer in range(depth):
        prefix, stacked = f"{name}.layers.{layer}", f"{path}/layers"
        yield from norm(f"{prefix}.layer_norm1", f"{stacked}/norm1", layer=layer)
        for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
            yield from linear(f"{prefix}.self_attn.{theirs}", f"{stacked}/attention/{ours}", layer=layer)
        yield from norm(f"{prefix}.layer_norm2", f"{stacked}/norm2", layer=layer)
        yield from linear(f"{prefix}.mlp.fc1", f"{stacked}/mlp/up", layer=layer)
        yield from linear(f"{prefix}.mlp.fc2", f"{stacked}/mlp/down", layer=layer)


class ModelConfig(NamedTuple):
    """A `config.json`: the model type, one of `MODEL_TYPES`, and the settings of the towers."""

    model_type: str
    settings: ModelSettings


def unsupported_model_type(
    path: pathlib.Path, model_type: Any, *, supported: Collection[str] = MODEL_TYPES
) -> ValueError:
    """Return the error for a `config.json` of another kind of model."""
    return ValueError(
        f"{path}: model_type {model_type!r} is not supported. Supported: {', '.join(supported)}. {_WITHOUT_TOWERS}"
    )


def unsupported_tower(name: str, reason: str) -> ValueError:
    """Return the error for an image tower that cannot be expressed here, with the reason and what to do instead."""
    return ValueError(f"{name} is not supported: {reason}. {_WITHOUT_TOWERS}")


def read_config(path: pathlib.Path) -> ModelConfig:
    """Read a `config.json`; fields that it lacks have the defaults of transformers.

    Raises `ValueError` for other models and for settings that are not supported.
    """
    from transformers import CLIPConfig, MetaClip2Config, Siglip2Config, SiglipConfig

    classes = {SIGLIP: SiglipConfig, SIGLIP2: Siglip2Config, CLIP: CLIPConfig, METACLIP2: MetaClip2Config}
    fields = read_json(path)
    model_type = fields.get("model_type")
    if model_type not in MODEL_TYPES:
        raise unsupported_model_type(path, model_type)
    try:
        with quiet_transformers():  # it warns about token ids outside of the default vocabulary
            config = classes[model_type].from_dict(fields)
        is_clip = model_type in (CLIP, METACLIP2)
        settings = _clip_settings(config, model_type) if is_clip else _siglip_settings(config, model_type)
    except Exception as error:  # the config classes of transformers raise many kinds of errors
        raise ValueError(f"{path}: {one_line(error)}") from error
    return ModelConfig(model_type, settings)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from logging warnings."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _siglip_settings(config: Any, model_type: str) -> ModelSettings:
    vision, text = config.vision_config, config.text_config
    square = math.isqrt(vision.num_patches) * vision.patch_size if model_type == SIGLIP2 else vision.image_size
    if not vision.vision_use_head:
        raise ValueError("vision_use_head is False; towers without a pooling head are not supported")
    settings = ModelSettings(
        vision=VisionSettings(image_size=square, patch_size=vision.patch_size, **_read_tower(vision)),
        text=TextSettings(vocab_size=text.vocab_size, length=text.max_position_embeddings, **_read_tower(text)),
    )
    if text.projection_size != settings.dim:
        raise ValueError(
            f"text embeddings have {text.projection_size} dimensions, but image embeddings have {settings.dim}"
        )
    return settings


def _clip_settings(config: Any, model_type: str) -> ModelSettings:
    vision, text = config.vision_config, config.text_config
    end = text.eos_token_id
    if isinstance(end, list):
        raise ValueError(f"text_config.eos_token_id is {end}; only a single end token is supported")
    return ModelSettings(
        vision=VisionSettings(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            pooling="class",
            pre_norm=True,
            patch_bias=False,
            projection=config.projection_dim,
            **_read_tower(vision),
        ),
        text=TextSettings(
            vocab_size=text.vocab_size,
            length=text.max_position_embeddings,
            pooling="end",
            end_id=None if model_type == CLIP and end == _END_IS_LARGEST_ID else end,
            causal=True,
            projection_bias=False,
            **_read_tower(text),
        ),
    )


def _read_tower(section: Any) -> dict[str, Any]:
    if section.hidden_act not in _ACTIVATIONS:
        raise ValueError(f"hidden_act {section.hidden_act!r} is not supported. Supported: {', '.join(_ACTIVATIONS)}.")
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
    """Return the `config.json` of the class for the towers; raise `ValueError` for towers that none can hold."""
    model_type = model_type_of(settings)
    vision, text = settings.vision, settings.text
    height, width = vision.image_shape
    if height != width:
        raise ValueError(f"images of {height} × {width} pixels are not square, as SiglipModel and CLIPModel require")
    is_clip = model_type in (CLIP, METACLIP2)
    if is_clip:
        end_id = _END_IS_LARGEST_ID if text.end_id is None else text.end_id
    projection = {"projection_dim" if is_clip else "projection_size": settings.dim}
    clip_projection = projection if is_clip else {}
    images = {"num_patches": vision.num_patches} if model_type == SIGLIP2 else {"image_size": height}
    return {
        "architectures": [_ARCHITECTURES[model_type]],
        "model_type": model_type,
        "dtype": dtype,
        "initializer_factor": 1.0,
        **clip_projection,
        "vision_config": {
            **_tower_fields(vision),
            "model_type": f"{model_type}_vision_model",
            "num_channels": 3,
            **images,
            "patch_size": vision.patch_size,
            **clip_projection,
        },
        "text_config": {
            **_tower_fields(text),
            "model_type": f"{model_type}_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.length,
            **projection,
            "pad_token_id": pad_id,
            "bos_token_id": start_id,
            "eos_token_id": end_id,
        },
    }


def _tower_fields(tower: VisionSettings | TextSettings) -> dict[str, Any]:
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

"""The format of open_clip: its JSON config and the names of its tensors. It is read, not written."""

from __future__ import annotations

import logging
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from foundation.files.safe_json import read_json
from foundation.suggestions import unknown_name
from models.checkpoints.huggingface import unsupported_tower
from models.checkpoints.weight_map import (
    MappedSettings,
    WeightEntry,
    WeightMap,
    check_depth,
    convolution,
    fused_linears,
    linear,
    norm,
)
from models.config import ModelSettings, TextSettings, VisionSettings
from models.io.tensor_reader import Tensor
from models.preprocessing import Preprocessing
from models.variants import SIZES

logger = logging.getLogger(__name__)

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SIGLIP_MEAN = _SIGLIP_STD = (0.5, 0.5, 0.5)
# `clean` of open_clip → one of CANONICALIZATIONS
_CLEAN = {
    "canonicalize": "open_clip",
    "lower": "whitespace_lower",
    "whitespace": "whitespace",
    "whitespace_underscore": "whitespace_underscore",
}
_RESAMPLING = {"bicubic": 3, "bilinear": 2, "random": 3}
# The names that timm gives its SigLIP image towers; their size determines the number of heads.
_TIMM_NAME = re.compile(r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_\d+(\..*)?")
_TIMM_TANH_NAME = re.compile(
    r"vit_(base_patch32_siglip_256|large_patch16_siglip_512|(so400m|giantopt)_patch16_siglip_\d+)(\..*)?"
)
_PERCEPTION_ENCODER = re.compile(r"vit_pe_")
_ROTARY = "the attention of Perception Encoder has rotary position embeddings (arXiv 2504.13181)"
_TIMM_SIZES = {"base": "B", "large": "L", "so400m": "So400m", "giantopt": "g-opt"}
# Keys of the tower sections that are read, and other keys with the only supported values, the defaults of open_clip.
_VISION_KEYS = ("image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "no_ln_pre", "norm_kwargs")
_VISION_KEYS += ("act_kwargs", "timm_model_name", "timm_model_pretrained", "patch_dropout", "timm_drop")
_TEXT_KEYS = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask", "pool_type")
_TEXT_KEYS += ("proj_bias", "norm_kwargs", "act_kwargs", "pad_id", "eos_id", "hf_tokenizer_name", "tokenizer_kwargs")
_VISION_KEYS += ("pool_type", "final_ln_after_pool")
_VISION_DEFAULTS = {"timm_pool": ("map",), "timm_proj": ("none", "", None)}
_VISION_DEFAULTS |= {"pos_embed_type": ("learnable", "sin_cos_2d")}  # both are tensors of the file
_VISION_DEFAULTS |= {"timm_proj_bias": (False,), "timm_drop_path": (None,)}
_TEXT_DEFAULTS = {"proj_type": ("linear",), "tokenizer_mode": (None,)}


def read_settings(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MappedSettings:
    """Return the settings of the towers that an open_clip config describes, and where their tensors are.

    The image towers of SigLIP are those of timm; the tensors tell their sizes. Raises `ValueError` for settings that
    are not supported.
    """
    try:
        vision, text = dict(fields["vision_cfg"]), dict(fields["text_cfg"])
        if _PERCEPTION_ENCODER.match(str(vision.get("timm_model_name"))):
            raise unsupported_tower(f"timm_model_name {vision['timm_model_name']!r}", _ROTARY)
        embed_dim = fields["embed_dim"]
        activation = "quick_gelu" if fields.get("quick_gelu") else "gelu"
        _check_keys("vision_cfg", vision, known=_VISION_KEYS, defaults=_VISION_DEFAULTS)
        _check_keys("text_cfg", text, known=_TEXT_KEYS, defaults=_TEXT_DEFAULTS)
        timm = vision.get("timm_model_name") is not None
        settings = ModelSettings(
            vision=_timm_vision(vision, tensors) if timm else _vision(vision, embed_dim, activation),
            text=_text(text, activation),
        )
    except KeyError as error:
        raise ValueError(f"the field {error} is missing") from error
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"a field does not have the type that open_clip writes ({error})") from error
    if settings.dim != embed_dim:
        raise ValueError(f"embed_dim is {embed_dim}, but image embeddings have {settings.dim} dimensions")
    check_depth(settings, tensors)
    prefix = "text." if "text.token_embedding.weight" in tensors else ""
    entries = [*(_timm_entries(settings) if timm else _vision_entries(settings)), *_text_entries(settings, prefix)]
    weight_map = WeightMap(
        tuple(entries),
        {"logit_scale": "logit_scale", "logit_bias": "logit_bias"},
        scalar_shape=(),
        ignored=r"(^|\.)attn_mask$",
    )
    return MappedSettings(settings, weight_map)


def read_preprocessing(fields: Mapping[str, Any], settings: ModelSettings) -> Preprocessing:
    """Return the preprocessing that the `preprocess_cfg` of an open_clip config describes.

    Fields that it lacks are those of open_clip's own SigLIP or CLIP checkpoints.
    """
    shape, siglip = settings.vision.image_shape, settings.vision.pooling == "attention"
    mode = fields.get("resize_mode", "squash" if siglip else "shortest")
    resampling = fields.get("interpolation", "bicubic")
    mean, std = (_SIGLIP_MEAN, _SIGLIP_STD) if siglip else (_MEAN, _STD)
    if mode not in ("shortest", "squash") or resampling not in _RESAMPLING:
        raise ValueError(f"resize_mode {mode!r} with interpolation {resampling!r} is not supported")
    if mode == "shortest" and shape[0] != shape[1]:
        raise ValueError(f"resize_mode 'shortest' is not supported for images of {shape}. Supported: 'squash'.")
    return Preprocessing(
        size=shape if mode == "squash" else shape[0],
        crop=None if mode == "squash" else shape,
        resample=_RESAMPLING[resampling],
        mean=tuple(fields.get("mean") or mean),
        std=tuple(fields.get("std") or std),
    )


def warn_if_images_differ(
    name: str, folder: pathlib.Path, preprocessing: Preprocessing, settings: ModelSettings
) -> None:
    """Log how images would be prepared by an open_clip config in the same folder, if otherwise, as for DFN-5B."""
    path = folder / CONFIG_FILE
    fields = read_json(path).get("preprocess_cfg") if path.is_file() else None
    if not fields:
        return
    differing = preprocessing.differences(read_preprocessing(fields, settings))
    if differing:
        logger.warning(
            f"{name}: images are prepared by the files of transformers, from which {path.name} differs: "
            f"{'; '.join(differing)}. Pass the file of open_clip's weights to use that."
        )


class TextOptions(NamedTuple):
    """The tokenizer that an open_clip config names, the canonicalization if stated, and whether [SEP] is padding."""

    names: dict[str, str]
    canonicalize: str | None
    strip_sep: bool


def read_text_options(fields: Mapping[str, Any]) -> TextOptions:
    """Return how texts are prepared by an open_clip config; raise `ValueError` for options that are not supported."""
    text = fields["text_cfg"]
    options, name = dict(text.get("tokenizer_kwargs") or {}), text.get("hf_tokenizer_name")
    clean, strip_sep = options.pop("clean", None), options.pop("strip_sep_token", False)
    if clean is not None and clean not in _CLEAN:
        raise ValueError(unknown_name("text_cfg.tokenizer_kwargs.clean", clean, _CLEAN))
    unsupported = {key: value for key, value in options.items() if value not in (None, False)}
    if unsupported:
        raise ValueError(f"text_cfg.tokenizer_kwargs {unsupported} are not supported")
    return TextOptions({"tokenizer": name} if name else {}, _CLEAN.get(clean), bool(strip_sep))


def _check_keys(
    section: str, fields: Mapping[str, Any], *, known: tuple[str, ...], defaults: Mapping[str, tuple]
) -> None:
    for key, value in fields.items():
        unset = value in (None, False) or value in defaults.get(key, ())
        if key not in known and not unset:
            raise ValueError(f"{section}.{key} {value!r} is not supported")


def _activation(fields: Mapping[str, Any], default: str) -> str:
    kwargs = fields.get("act_kwargs") or {}
    if kwargs not in ({}, {"approximate": "tanh"}):
        raise ValueError(f"act_kwargs {kwargs} are not supported")
    return "gelu_tanh" if kwargs else default


def _vision(fields: Mapping[str, Any], embed_dim: int, activation: str) -> VisionSettings:
    width, size = fields.get("width", 768), fields.get("image_size", 224)
    poolings, pool = {"tok": "class", "avg": "average"}, fields.get("pool_type") or "tok"
    if pool not in poolings:
        raise ValueError(f"vision_cfg.pool_type {pool!r} is not supported. Supported: {', '.join(poolings)}.")
    return VisionSettings(
        image_size=tuple(size) if isinstance(size, list) else size,
        patch_size=fields.get("patch_size", 16),
        width=width,
        depth=fields.get("layers", 12),
        heads=width // fields.get("head_width", 64),
        mlp_width=int(width * fields.get("mlp_ratio", 4.0)),
        pooling=poolings[pool],
        norm_after_pooling=pool == "avg" and bool(fields.get("final_ln_after_pool")),
        pre_norm=not fields.get("no_ln_pre", False),
        patch_bias=False,
        projection=embed_dim,
        activation=_activation(fields, activation),
        norm_epsilon=(fields.get("norm_kwargs") or {}).get("eps", 1e-5),
    )


def _timm_vision(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VisionSettings:
    name, trunk = fields["timm_model_name"], "visual.trunk"
    found = _TIMM_NAME.fullmatch(name)
    if not found or fields.get("timm_pool") != "map":
        raise ValueError(
            f"timm_model_name {name!r} is not supported. Supported: vit_SIZE_patchN_siglip_… with timm_pool 'map'."
        )
    width = tensors[f"{trunk}.norm.weight"].shape[0]
    size = fields.get("image_size", 224)
    return VisionSettings(
        image_size=tuple(size) if isinstance(size, list) else size,
        patch_size=int(found[2]),
        width=width,
        depth=sum(f"{trunk}.blocks.{layer}.norm1.weight" in tensors for layer in range(len(tensors))),
        heads=SIZES[_TIMM_SIZES[found[1]]].heads,
        mlp_width=tensors[f"{trunk}.blocks.0.mlp.fc1.bias"].shape[0],
        activation="gelu_tanh" if _TIMM_TANH_NAME.fullmatch(name) else "gelu",
    )


def _text(fields: Mapping[str, Any], activation: str) -> TextSettings:
    poolings = {"argmax": ("end", None), "eos": ("end", fields.get("eos_id", 2)), "last": ("last", None)}
    pool, width = fields.get("pool_type", "argmax"), fields.get("width", 512)
    if pool not in poolings:
        raise ValueError(f"text_cfg.pool_type {pool!r} is not supported. Supported: {', '.join(poolings)}.")
    pooling, end_id = poolings[pool]
    return TextSettings(
        vocab_size=fields.get("vocab_size", 49408),
        length=fields.get("context_length", 77),
        width=width,
        depth=fields.get("layers", 12),
        heads=fields.get("heads", 8),
        mlp_width=int(width * fields.get("mlp_ratio", 4.0)),
        pooling=pooling,
        end_id=end_id,
        causal=not fields.get("no_causal_mask", False),
        activation=_activation(fields, activation),
        norm_epsilon=(fields.get("norm_kwargs") or {}).get("eps", 1e-5),
        projection_bias=bool(fields.get("proj_bias", False)),
    )


def _vision_entries(settings: ModelSettings) -> Iterator[WeightEntry]:
    vision = settings.vision
    yield WeightEntry("visual.class_embedding", "vision/class_embedding")
    yield from convolution(
        "visual.conv1", "vision/patch_embedding", patch_size=vision.patch_size, width=vision.width, bias=False
    )
    yield WeightEntry("visual.positional_embedding", "vision/position_embedding")
    if vision.pre_norm:
        yield from norm("visual.ln_pre", "vision/pre_norm")
    yield from _encoder("visual.transformer", "vision/encoder", vision.depth)
    yield from norm("visual.ln_post", "vision/encoder/norm")
    yield WeightEntry("visual.proj", "vision/projection/kernel")


def _timm_entries(settings: ModelSettings) -> Iterator[WeightEntry]:
    vision, trunk = settings.vision, "visual.trunk"
    yield from convolution(
        f"{trunk}.patch_embed.proj",
        "vision/patch_embedding",
        patch_size=vision.patch_size,
        width=vision.width,
        bias=True,
    )
    yield WeightEntry(f"{trunk}.pos_embed", "vision/position_embedding", view=(1, vision.num_patches, vision.width))
    for layer in range(vision.depth):
        block, path = f"{trunk}.blocks.{layer}", "vision/encoder/layers"
        yield from norm(f"{block}.norm1", f"{path}/norm1", layer=layer)
        yield from fused_linears(
            f"{block}.attn.qkv.weight",
            f"{block}.attn.qkv.bias",
            path=f"{path}/attention",
            parts=("query", "key", "value"),
            layer=layer,
        )
        yield from linear(f"{block}.attn.proj", f"{path}/attention/out", layer=layer)
        yield from norm(f"{block}.norm2", f"{path}/norm2", layer=layer)
        yield from linear(f"{block}.mlp.fc1", f"{path}/mlp/up", layer=layer)
        yield from linear(f"{block}.mlp.fc2", f"{path}/mlp/down", layer=layer)
    yield from norm(f"{trunk}.norm", "vision/encoder/norm")
    pool, path = f"{trunk}.attn_pool", "vision/head"
    yield WeightEntry(f"{pool}.latent", f"{path}/probe")
    yield from linear(f"{pool}.q", f"{path}/attention/query")
    yield from fused_linears(f"{pool}.kv.weight", f"{pool}.kv.bias", path=f"{path}/attention", parts=("key", "value"))
    yield from linear(f"{pool}.proj", f"{path}/attention/out")
    yield from norm(f"{pool}.norm", f"{path}/norm")
    yield from linear(f"{pool}.mlp.fc1", f"{path}/mlp/up")
    yield from linear(f"{pool}.mlp.fc2", f"{path}/mlp/down")


def _text_entries(settings: ModelSettings, prefix: str) -> Iterator[WeightEntry]:
    text = settings.text
    yield WeightEntry(f"{prefix}token_embedding.weight", "text/token_embedding")
    yield WeightEntry(f"{prefix}positional_embedding", "text/position_embedding")
    yield from _encoder(f"{prefix}transformer", "text/encoder", text.depth)
    yield from norm(f"{prefix}ln_final", "text/encoder/norm")
    if text.projection_bias:
        yield from linear(f"{prefix}text_projection", "text/head")
    else:
        yield WeightEntry(f"{prefix}text_projection", "text/head/kernel")


def _encoder(name: str, path: str, depth: int) -> Iterator[WeightEntry]:
    for layer in range(depth):
        block, stacked = f"{name}.resblocks.{layer}", f"{path}/layers"
        yield from norm(f"{block}.ln_1", f"{stacked}/norm1", layer=layer)
        yield from fused_linears(
            f"{block}.attn.in_proj_weight",
            f"{block}.attn.in_proj_bias",
            path=f"{stacked}/attention",
            parts=("query", "key", "value"),
            layer=layer,
        )
        yield from linear(f"{block}.attn.out_proj", f"{stacked}/attention/out", layer=layer)
        yield from norm(f"{block}.ln_2", f"{stacked}/norm2", layer=layer)
        yield from linear(f"{block}.mlp.c_fc", f"{stacked}/mlp/up", layer=layer)
        yield from linear(f"{block}.mlp.c_proj", f"{stacked}/mlp/down", layer=layer)


def find_weights(folder: pathlib.Path) -> pathlib.Path | None:
    """Return the file with the tensors of an open_clip checkpoint, or None."""
    return next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)

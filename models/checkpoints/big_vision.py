"""The format of big_vision's SigLIP: one `.npz` file without a config, whose arrays tell the settings."""

from __future__ import annotations

import logging
import math
import os
import pathlib
import zipfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from foundation.files.atomic import atomic_file
from models.checkpoints.huggingface import SIGLIP, family_of
from models.checkpoints.weight_map import MappedSettings, WeightEntry, WeightMap, to_tensors
from models.config import ModelSettings, TextSettings, VisionSettings
from models.io.tensor_reader import Tensor
from models.preprocessing import NAFLEX_PATCHES

logger = logging.getLogger(__name__)

_ROOTS = ("params/", "")
_BLOCK, _STACKED_BLOCKS = "encoderblock_{}", "encoderblock"
_VISION_ENCODER, _TEXT_ENCODER = "img/Transformer", "txt/Encoder_0"


def read_settings(tensors: Mapping[str, Tensor], path: pathlib.Path) -> MappedSettings:
    """Return the settings of the towers that the arrays of a SigLIP have, and where the arrays are.

    Raises `ValueError` for other arrays.
    """
    root = next((root for root in _ROOTS if f"{root}img/embedding/kernel" in tensors), None)
    if root is None:
        raise ValueError(f"{path} has no array img/embedding/kernel. Is it a SigLIP checkpoint of big_vision?")
    try:
        settings = _settings(tensors, root)
    except KeyError as error:
        raise ValueError(f"{path} has no array {error}. Is it a SigLIP checkpoint of big_vision?") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    stacked = [name for name in (_VISION_ENCODER, _TEXT_ENCODER) if _is_stacked(tensors, root + name)]
    return MappedSettings(settings, weight_map_for(settings, root=root, stacked=stacked))


def _settings(tensors: Mapping[str, Tensor], root: str) -> ModelSettings:
    *patch, _ = tensors[f"{root}img/embedding/kernel"].shape
    *positions, _ = tensors[f"{root}img/pos_embedding"].shape
    _, length, _ = tensors[f"{root}txt/pos_embedding"].shape
    vocab_size, _ = tensors[f"{root}txt/Embed_0/embedding"].shape
    naflex = len(patch) == 1  # a linear layer on patches, and positions in rows and columns
    if naflex:
        side = math.isqrt(patch[0] // 3)
        patch = [side, side, patch[0] / side**2]
    patch_height, patch_width, channels = patch
    side = math.isqrt(math.prod(positions))
    if (
        patch_height != patch_width
        or channels != 3
        or positions != [side if naflex else 1, side if naflex else side**2]
    ):
        raise ValueError(
            f"{math.prod(positions)} patches of {patch_height} × {patch_width} × {channels:g} do not form a square RGB "
            "image"
        )
    vision, text = (_read_tower(tensors, root + name) for name in (_VISION_ENCODER, _TEXT_ENCODER))
    return ModelSettings(
        vision=VisionSettings(
            image_size=side * patch_height,
            patch_size=patch_height,
            max_patches=NAFLEX_PATCHES if naflex else None,
            **vision,
        ),
        text=TextSettings(vocab_size=vocab_size, length=length, **text),
    )


def _is_stacked(tensors: Mapping[str, Tensor], name: str) -> bool:
    return f"{name}/{_STACKED_BLOCKS}/LayerNorm_0/scale" in tensors


def _read_tower(tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    if _is_stacked(tensors, name):
        first = f"{name}/{_STACKED_BLOCKS}"
        depth, _ = tensors[f"{first}/LayerNorm_0/scale"].shape
    else:
        first = f"{name}/{_BLOCK.format(0)}"
        depth = sum(f"{name}/{_BLOCK.format(layer)}/LayerNorm_0/scale" in tensors for layer in range(len(tensors)))
    width, heads, _ = tensors[f"{first}/MultiHeadDotProductAttention_0/query/kernel"].shape[-3:]
    if tensors[f"{first}/LayerNorm_0/scale"].shape[-1:] != (width,):
        raise ValueError(f"{first}/LayerNorm_0/scale must have {width} elements per layer")
    mlp_width = tensors[f"{first}/MlpBlock_0/Dense_0/kernel"].shape[-1]
    return {"width": width, "depth": depth, "heads": heads, "mlp_width": mlp_width}


def weight_map_for(settings: ModelSettings, *, root: str = "params/", stacked: Collection[str] = ()) -> WeightMap:
    """Return the arrays of a SigLIP; `stacked` names the encoders whose layers are stacked in one array.

    Raises `ValueError` for towers of another family.
    """
    if family_of(settings) != SIGLIP:
        raise ValueError(
            "the .npz format of big_vision holds only SigLIP towers, and this is a CLIP. Write a Hugging Face "
            "directory instead."
        )
    return WeightMap(tuple(_entries(settings, root, stacked)), {"logit_scale": f"{root}t", "logit_bias": f"{root}b"})


def _entries(settings: ModelSettings, root: str, stacked: Collection[str]) -> Iterator[WeightEntry]:
    vision, text = settings.vision, settings.text
    image = f"{root}img"
    naflex = vision.max_patches is not None
    view = None if naflex else (vision.patch_size, vision.patch_size, 3, vision.width)
    yield WeightEntry(f"{image}/embedding/kernel", "vision/patch_embedding/kernel", view=view)
    yield WeightEntry(f"{image}/embedding/bias", "vision/patch_embedding/bias")
    positions = vision.grid if naflex else (1, vision.num_patches)
    yield WeightEntry(f"{image}/pos_embedding", "vision/position_embedding", view=(*positions, vision.width))
    yield from _encoder(root + _VISION_ENCODER, "vision/encoder", vision, stacked=_VISION_ENCODER in stacked)
    head = f"{image}/MAPHead_0"
    yield WeightEntry(f"{head}/probe", "vision/head/probe")
    yield from _layer(head, "vision/head", vision, norms={"norm": "LayerNorm_0"})
    words = f"{root}txt"
    yield WeightEntry(f"{words}/Embed_0/embedding", "text/token_embedding")
    yield WeightEntry(f"{words}/pos_embedding", "text/position_embedding", view=(1, text.length, text.width))
    yield from _encoder(root + _TEXT_ENCODER, "text/encoder", text, stacked=_TEXT_ENCODER in stacked)
    yield WeightEntry(f"{words}/head/kernel", "text/head/kernel")
    yield WeightEntry(f"{words}/head/bias", "text/head/bias")


def _encoder(name: str, path: str, tower: VisionSettings | TextSettings, *, stacked: bool) -> Iterator[WeightEntry]:
    norms = {"norm1": "LayerNorm_0", "norm2": "LayerNorm_1"}
    for layer in range(tower.depth):
        if not stacked:
            yield from _layer(f"{name}/{_BLOCK.format(layer)}", f"{path}/layers", tower, norms=norms, layer=layer)
            continue
        for entry in _layer(f"{name}/{_STACKED_BLOCKS}", f"{path}/layers", tower, norms=norms, layer=layer):
            yield entry._replace(view=(1, *entry.view), part=layer, parts=tower.depth)
    for part in ("scale", "bias"):
        yield WeightEntry(f"{name}/encoder_norm/{part}", f"{path}/norm/{part}")


def _layer(
    name: str,
    path: str,
    tower: VisionSettings | TextSettings,
    *,
    norms: Mapping[str, str],
    layer: int | None = None,
) -> Iterator[WeightEntry]:
    """Yield the entries of attention, norms and MLP; linear layers of attention have an axis for the heads."""
    width, heads, mlp_width = tower.width, tower.heads, tower.mlp_width
    split = (heads, width // heads)
    attention = f"{name}/MultiHeadDotProductAttention_0"
    for part in ("query", "key", "value"):
        yield WeightEntry(f"{attention}/{part}/kernel", f"{path}/attention/{part}/kernel", layer, view=(width, *split))
        yield WeightEntry(f"{attention}/{part}/bias", f"{path}/attention/{part}/bias", layer, view=split)
    yield WeightEntry(f"{attention}/out/kernel", f"{path}/attention/out/kernel", layer, view=(*split, width))
    yield WeightEntry(f"{attention}/out/bias", f"{path}/attention/out/bias", layer, view=(width,))
    for ours, theirs in norms.items():
        for part in ("scale", "bias"):
            yield WeightEntry(f"{name}/{theirs}/{part}", f"{path}/{ours}/{part}", layer, view=(width,))
    for number, (part, inputs, outputs) in enumerate((("up", width, mlp_width), ("down", mlp_width, width))):
        dense = f"{name}/MlpBlock_0/Dense_{number}"
        yield WeightEntry(f"{dense}/kernel", f"{path}/mlp/{part}/kernel", layer, view=(inputs, outputs))
        yield WeightEntry(f"{dense}/bias", f"{path}/mlp/{part}/bias", layer, view=(outputs,))


def save_big_vision(
    path: str | os.PathLike,
    settings: ModelSettings,
    *,
    parameters: Mapping[str, Any],
    scalars: Mapping[str, float],
) -> pathlib.Path:
    """Write the float32 `.npz` file that big_vision and open_clip's loader read; return its path.

    Settings that the format does not store are logged as warnings. Raises `ValueError` for towers of another family
    than SigLIP, and `FileExistsError` if `path` is anything but an `.npz` file.
    """
    path = pathlib.Path(path)
    if path.exists() and not zipfile.is_zipfile(path):
        raise FileExistsError(f"{path} exists and is not an .npz file. It was not changed; choose another path.")
    weight_map = weight_map_for(settings)
    for name, tower in (("vision", settings.vision), ("text", settings.text)):
        for field in ("activation", "norm_epsilon"):
            value, assumed = getattr(tower, field), getattr(TextSettings, field)
            if value != assumed:
                logger.warning(f"the .npz format does not store {name}.{field} {value}; readers assume {assumed}")
    tensors = to_tensors(weight_map, parameters, scalars=scalars, dtype=np.float32)
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **tensors)
    return path

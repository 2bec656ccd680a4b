"""The two-way map to the `.npz` checkpoints of big_vision's SigLIP, which carry no config: their arrays tell."""

from __future__ import annotations

import logging
import math
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from models.checkpoints.weight_map import Entry, Layout, to_tensors
from models.config import ModelSettings, TextSettings, VisionSettings
from models.io.tensor_reader import Tensor

logger = logging.getLogger(__name__)

_ROOTS = ("params/", "")
_BLOCK, _BLOCKS = "encoderblock_{}", "encoderblock"


def read_settings(tensors: Mapping[str, Tensor], path: pathlib.Path) -> tuple[ModelSettings, Layout]:
    """Returns the towers that the arrays of a SigLIP describe, and where they are; raises `ValueError` for others."""
    root = next((root for root in _ROOTS if f"{root}img/embedding/kernel" in tensors), None)
    if root is None:
        raise ValueError(f"{path} holds no img/embedding/kernel; is it a SigLIP of big_vision?")
    try:
        patch_height, patch_width, channels, _ = tensors[f"{root}img/embedding/kernel"].shape
        _, num_patches, _ = tensors[f"{root}img/pos_embedding"].shape
        _, length, _ = tensors[f"{root}txt/pos_embedding"].shape
        vocab_size, _ = tensors[f"{root}txt/Embed_0/embedding"].shape
        side = math.isqrt(num_patches)
        if patch_height != patch_width or channels != 3 or side**2 != num_patches:
            raise ValueError(
                f"{num_patches} patches of {patch_height} × {patch_width} × {channels} are no square image"
            )
        towers = {name: _tower(tensors, f"{root}{name}") for name in ("img/Transformer", "txt/Encoder_0")}
        settings = ModelSettings(
            vision=VisionSettings(image_size=side * patch_height, patch_size=patch_height, **towers["img/Transformer"]),
            text=TextSettings(vocab_size=vocab_size, length=length, **towers["txt/Encoder_0"]),
        )
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}; is it a SigLIP of big_vision?") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    scanned = [name for name in ("img/Transformer", "txt/Encoder_0") if _is_scanned(tensors, root + name)]
    return settings, layout_of(settings, root=root, scanned=scanned)


def _is_scanned(tensors: Mapping[str, Tensor], name: str) -> bool:
    return f"{name}/{_BLOCKS}/LayerNorm_0/scale" in tensors


def _tower(tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    if _is_scanned(tensors, name):
        first = f"{name}/{_BLOCKS}"
        depth, _ = tensors[f"{first}/LayerNorm_0/scale"].shape
    else:
        first = f"{name}/{_BLOCK.format(0)}"
        depth = sum(f"{name}/{_BLOCK.format(layer)}/LayerNorm_0/scale" in tensors for layer in range(len(tensors)))
    width, heads, _ = tensors[f"{first}/MultiHeadDotProductAttention_0/query/kernel"].shape[-3:]
    if tensors[f"{first}/LayerNorm_0/scale"].shape[-1:] != (width,):
        raise ValueError(f"{first}/LayerNorm_0/scale has no {width} numbers a layer")
    mlp_width = tensors[f"{first}/MlpBlock_0/Dense_0/kernel"].shape[-1]
    return {"width": width, "depth": depth, "heads": heads, "mlp_width": mlp_width}


def layout_of(settings: ModelSettings, *, root: str = "params/", scanned: list[str] | tuple[str, ...] = ()) -> Layout:
    """Returns the arrays of a SigLIP; the layers of `scanned` encoders are stacked.

    Raises `ValueError` for towers that are not SigLIP's.
    """
    from models.checkpoints.huggingface import SIGLIP, family_of

    if family_of(settings) != SIGLIP:
        raise ValueError("big_vision's .npz holds SigLIP towers; this is a CLIP, which a Hugging Face directory holds")
    entries = tuple(_entries(settings, root, scanned))
    return Layout(entries, {"logit_scale": f"{root}t", "logit_bias": f"{root}b"})


def _entries(settings: ModelSettings, root: str, scanned: list[str] | tuple[str, ...]) -> Iterator[Entry]:
    vision, text = settings.vision, settings.text
    image = f"{root}img"
    view = (vision.patch_size, vision.patch_size, 3, vision.width)
    yield Entry(f"{image}/embedding/kernel", "vision/patch_embedding/kernel", view=view)
    yield Entry(f"{image}/embedding/bias", "vision/patch_embedding/bias")
    yield Entry(f"{image}/pos_embedding", "vision/position_embedding", view=(1, vision.num_patches, vision.width))
    yield from _encoder(f"{image}/Transformer", "vision/encoder", vision, "img/Transformer" in scanned)
    head = f"{image}/MAPHead_0"
    yield Entry(f"{head}/probe", "vision/head/probe")
    yield from _layer(head, "vision/head", vision, {"norm": "LayerNorm_0"})
    words = f"{root}txt"
    yield Entry(f"{words}/Embed_0/embedding", "text/token_embedding")
    yield Entry(f"{words}/pos_embedding", "text/position_embedding", view=(1, text.length, text.width))
    yield from _encoder(f"{words}/Encoder_0", "text/encoder", text, "txt/Encoder_0" in scanned)
    yield Entry(f"{words}/head/kernel", "text/head/kernel")
    yield Entry(f"{words}/head/bias", "text/head/bias")


def _encoder(name: str, path: str, tower: VisionSettings | TextSettings, scanned: bool) -> Iterator[Entry]:
    norms = {"norm1": "LayerNorm_0", "norm2": "LayerNorm_1"}
    for layer in range(tower.depth):
        if not scanned:
            yield from _layer(f"{name}/{_BLOCK.format(layer)}", f"{path}/layers", tower, norms, layer=layer)
            continue
        for entry in _layer(f"{name}/{_BLOCKS}", f"{path}/layers", tower, norms, layer=layer):
            yield entry._replace(view=(1, *entry.view), part=layer, parts=tower.depth)
    for theirs, ours in (("scale", "scale"), ("bias", "bias")):
        yield Entry(f"{name}/encoder_norm/{theirs}", f"{path}/norm/{ours}")


def _layer(
    name: str,
    path: str,
    tower: VisionSettings | TextSettings,
    norms: Mapping[str, str],
    *,
    layer: int | None = None,
) -> Iterator[Entry]:
    """Yields the entries of attention, norms and MLP; linear maps have their heads on an axis of their own."""
    width, heads, mlp_width = tower.width, tower.heads, tower.mlp_width
    split = (heads, width // heads)
    attention = f"{name}/MultiHeadDotProductAttention_0"
    for part in ("query", "key", "value"):
        yield Entry(f"{attention}/{part}/kernel", f"{path}/attention/{part}/kernel", layer, view=(width, *split))
        yield Entry(f"{attention}/{part}/bias", f"{path}/attention/{part}/bias", layer, view=split)
    yield Entry(f"{attention}/out/kernel", f"{path}/attention/out/kernel", layer, view=(*split, width))
    yield Entry(f"{attention}/out/bias", f"{path}/attention/out/bias", layer, view=(width,))
    for ours, theirs in norms.items():
        for part in ("scale", "bias"):
            yield Entry(f"{name}/{theirs}/{part}", f"{path}/{ours}/{part}", layer, view=(width,))
    for number, (part, inputs, outputs) in enumerate((("up", width, mlp_width), ("down", mlp_width, width))):
        dense = f"{name}/MlpBlock_0/Dense_{number}"
        yield Entry(f"{dense}/kernel", f"{path}/mlp/{part}/kernel", layer, view=(inputs, outputs))
        yield Entry(f"{dense}/bias", f"{path}/mlp/{part}/bias", layer, view=(outputs,))


def save_big_vision(
    path: str | os.PathLike,
    settings: ModelSettings,
    parameters: Mapping[str, Any],
    scalars: Mapping[str, float],
) -> pathlib.Path:
    """Writes the float32 `.npz` that open_clip's loader and big_vision read; returns its path.

    What of the towers it cannot hold, `say` is told. Raises `ValueError` for towers that are not SigLIP's.
    """
    path = pathlib.Path(path)
    if path.exists() and not zipfile.is_zipfile(path):
        raise FileExistsError(f"{path} is there and is no .npz; it is left as it is, name another place")
    for name, tower in (("vision", settings.vision), ("text", settings.text)):
        for field in ("activation", "norm_epsilon"):
            usual = getattr(TextSettings, field)
            if getattr(tower, field) != usual:
                value = getattr(tower, field)
                logger.info(f"note: an .npz does not hold {name}.{field} {value}; readers assume {usual}")
    tensors = to_tensors(layout_of(settings), parameters, scalars=scalars, dtype=np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.partial-") as temporary:
        partial = pathlib.Path(temporary) / path.name
        with open(partial, "wb") as file:
            np.savez(file, **tensors)
        os.replace(partial, path)
    return path

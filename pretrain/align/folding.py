"""Folding linear heads into the projections of the CLIP whose embeddings they map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.io.fingerprint import fingerprint_files
from models.checkpoints.aligned import AlignedModel
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.huggingface import CLIP, family_of
from models.checkpoints.io import Checkpoint, open_checkpoint
from models.config import FeatureHeadSettings

_TOLERANCE = 1e-4  # of a bias that is folded, relative to its length


def fold(model: AlignedModel) -> Checkpoint:
    """Return the CLIP whose towers embed as its own embeddings followed by the heads of `model`.

    A projection P followed by a linear head W is the projection P W. What a head adds, its bias and the mean that it
    removes, moves into the bias of the norm before the projection: a vector δ there becomes (P W)ᵀ δ.

    Raises `ValueError` for heads that are not linear or normalise their features, for encoders that are not one CLIP,
    and if its weights have changed.
    """
    _check(model)
    encoder = model.encoders["vision"]
    options = {name: encoder.options[name] for name in ("image_size", "max_patches") if encoder.options.get(name)}
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    described = describe_checkpoint(encoder.name, **options)
    if fingerprint_files(described.files.paths) != encoder.weights:
        raise ValueError(f"{encoder.name} does not have the weights whose embeddings the heads were trained on")
    if described.settings.vision.projection is None or family_of(described.settings) != CLIP:
        raise ValueError(
            f"{encoder.name} is not a CLIPModel, whose projections the heads could be folded into. Export without "
            "--format=huggingface."
        )
    clip = open_checkpoint(encoder.name, place=lambda path, array: array, **options)
    towers = dict(clip.parameters)
    for side, projection in (("vision", "projection"), ("text", "head")):
        head = getattr(model.settings, side)
        towers[side] = fold_head(towers[side], projection, head, model.parameters[side])
    vision = dataclasses.replace(clip.settings.vision, projection=model.settings.dim)
    settings = dataclasses.replace(clip.settings, vision=vision)
    return clip._replace(settings=settings, parameters=towers, scalars=dict(model.scalars), dtype="float32")


def fold_head(
    tower: Mapping[str, Any], projection: str, head: FeatureHeadSettings, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the parameters of a tower whose projection has a linear head folded in."""
    kernel = np.asarray(parameters["linear"]["kernel"], np.float64)
    added = np.asarray(parameters["linear"]["bias"], np.float64) if head.bias else np.zeros(head.dim)
    if head.standardize:
        kernel = kernel / np.maximum(np.asarray(parameters["deviation"], np.float64), 1e-12)[:, None]
        added = added - np.asarray(parameters["mean"], np.float64) @ kernel
    folded = np.asarray(tower[projection]["kernel"], np.float64) @ kernel
    shift = np.linalg.lstsq(folded.T, added, rcond=None)[0]
    if np.linalg.norm(folded.T @ shift - added) > _TOLERANCE * max(np.linalg.norm(added), 1):
        raise ValueError(
            "the bias of the heads cannot be folded into the norms of the CLIP. Train heads with bias=False and "
            "standardize=False, or export without --format=huggingface."
        )
    encoder = dict(tower["encoder"])
    norm = dict(encoder["norm"])
    norm["bias"] = (np.asarray(norm["bias"], np.float64) + shift).astype(np.float32)
    encoder["norm"] = norm
    return dict(tower) | {"encoder": encoder, projection: {"kernel": folded.astype(np.float32)}}


def _check(model: AlignedModel) -> None:
    """Raise `ValueError` for heads and encoders that cannot be folded."""
    for side in ("vision", "text"):
        head = getattr(model.settings, side)
        if not isinstance(head, FeatureHeadSettings) or head.kind != "linear" or head.normalize:
            raise ValueError(
                f"only linear heads that do not normalise can be folded, and the {side} side has none. Export without "
                "--format=huggingface, or train with align.image_head.kind=linear and align.text_head.kind=linear."
            )
        if model.encoders[side].unit_length:
            raise ValueError(
                f"the {side} features were normalised, which no projection can repeat. Align features that are not, as "
                "`embed` writes them, or export without --format=huggingface."
            )
    weights = {encoder.weights for encoder in model.encoders.values()}
    if None in weights or len(weights) > 1:
        raise ValueError(
            "only features of one CLIP can be folded, computed by `embed` for both images and texts. Export without "
            "--format=huggingface."
        )

"""The starting point of a run: towers of a published size with random weights, or a checkpoint to continue."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from foundation.log import silenced
from models.checkpoints.describe import CheckpointDescription, describe_checkpoint
from models.config import TextSettings, VisionSettings
from models.variants import tower_fields

CHECKPOINT_TOKENIZER = "checkpoint"
_TOWERS = {"vision": VisionSettings, "text": TextSettings}


def resolve(config: Mapping[str, Any], *, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the `pretrain` section of a config with all values that its starting point determines.

    From scratch these are the settings of the towers, by `family` and `variant`. With `initial_checkpoint` they are the
    towers, tokenizer and preprocessing of the checkpoint, and its `logit_scale` and `logit_bias` unless the config sets
    them. `kept` are the settings stored when the run started: with them the checkpoint need not exist any more.

    Raises `ValueError` for towers that differ from the checkpoint's; only the size of images may differ:
    `vision.image_size` and, for SigLIP 2 NaFlex, `vision.max_patches`.
    """
    values = dict(config)
    sizes = tower_fields(values.get("family") or "siglip", values.get("variant"))
    given = {tower: {**getattr(sizes, tower), **dict(values.get(tower) or {})} for tower in _TOWERS}
    name = values.get("initial_checkpoint")
    if name is None:
        return values | given
    size = {key: given["vision"].get(key) for key in ("image_size", "max_patches")}
    start = _kept_start(kept, name) or _checkpoint_start(name, **size)
    for tower in _TOWERS:
        _check_tower(tower, given[tower], start[tower], checkpoint=name)
        given[tower] = {**start[tower], **given[tower]}
    tokenizer = {**start["tokenizer"], **dict(values.get("tokenizer") or {})}
    if str(tokenizer.get("name")).startswith("train:"):
        raise ValueError(
            f"tokenizer.name {tokenizer['name']!r} would train new token ids, but the text tower of {name} was trained "
            f"with its own. Set it to {CHECKPOINT_TOKENIZER!r}, or remove it."
        )
    objective = {**start["objective"], **dict(values.get("objective") or {})}
    preprocessing = values.get("preprocessing") or start["preprocessing"]
    return values | given | {"tokenizer": tokenizer, "objective": objective, "preprocessing": preprocessing}


def _kept_start(kept: Mapping[str, Any] | None, checkpoint: str) -> dict[str, Any] | None:
    """Return what the stored settings of a run took from a checkpoint, or None if it started from another one."""
    if kept is None or kept.get("initial_checkpoint") != checkpoint:
        return None
    start = {key: kept[key] for key in ("vision", "text", "tokenizer", "preprocessing", "objective")}
    return start | {"objective": {key: start["objective"][key] for key in ("logit_scale", "logit_bias")}}


def _checkpoint_start(name: str, **size: Any) -> dict[str, Any]:
    """Return the settings that a checkpoint determines, for images of another size if one is given."""
    with silenced("models"):
        checkpoint: CheckpointDescription = describe_checkpoint(name, **size)
    if checkpoint.settings.text is None:
        raise ValueError(
            f"initial_checkpoint {name} embeds images only, but pretrain trains an image tower and a text tower. Use a "
            "checkpoint with both, such as google/siglip-base-patch16-224."
        )
    checkpoint.check_towers()
    scalars = checkpoint.scalars()
    objective = {"logit_scale": math.exp(scalars["logit_scale"])}
    if checkpoint.has_logit_bias:
        objective["logit_bias"] = scalars["logit_bias"]
    return {
        "vision": dataclasses.asdict(checkpoint.settings.vision),
        "text": dataclasses.asdict(checkpoint.settings.text),
        "tokenizer": {"name": CHECKPOINT_TOKENIZER},
        "preprocessing": dataclasses.asdict(checkpoint.preprocessing),
        "objective": objective,
    }


def _check_tower(tower: str, given: Mapping[str, Any], start: Mapping[str, Any], *, checkpoint: str) -> None:
    """Raise `ValueError` if the config sets a known key of a tower to another value than the checkpoint's."""
    known = {field.name for field in dataclasses.fields(_TOWERS[tower])}
    for key, value in given.items():
        if key in known and start.get(key) != value and (tower, key) != ("vision", "image_size"):
            raise ValueError(
                f"{tower}.{key} is {value!r} in the config, but {start.get(key)!r} in {checkpoint}. Remove it: the "
                "towers of the checkpoint are used."
            )

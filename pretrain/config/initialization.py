"""What a run starts from: towers of a published size, or a checkpoint that it continues."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from foundation.log import silenced
from models.checkpoints.io import Description, describe_checkpoint
from models.config import TextSettings, VisionSettings
from models.variants import towers

CHECKPOINT_TOKENIZER = "checkpoint"


def resolve(config: Mapping[str, Any], *, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the `pretrain` section of a config with everything spelled out that its starting point determines.

    From scratch these are the towers' settings, by `family` and `variant`. With `initial_checkpoint` they are those of
    the checkpoint, and so are tokenizer, preprocessing, `objective.logit_scale` and `.logit_bias` unless the config has
    others. `kept` is what was spelled out when the run began: with it the checkpoint need not be there any more.

    Raises `ValueError` for towers that are not the checkpoint's; only `vision.image_size` may differ.
    """
    values = dict(config)
    given = {name: dict(values.get(name) or {}) for name in ("vision", "text")}
    sizes = towers(values.get("family") or "siglip", values.get("variant"))
    given = {name: {**getattr(sizes, name), **given[name]} for name in given}
    name = values.get("initial_checkpoint")
    if name is None:
        return values | given
    if kept is not None and kept.get("initial_checkpoint") == name:
        start = {key: kept[key] for key in ("vision", "text", "tokenizer", "preprocessing", "objective")}
        start["objective"] = {key: start["objective"][key] for key in ("logit_scale", "logit_bias")}
    else:
        with silenced("models"):
            found = describe_checkpoint(name, image_size=given["vision"].get("image_size"))
        start = _start(found)
    for tower, fields in (("vision", VisionSettings), ("text", TextSettings)):
        known = {field.name for field in dataclasses.fields(fields)}
        for key, value in given[tower].items():
            if key in known and start[tower].get(key) != value and (tower, key) != ("vision", "image_size"):
                raise ValueError(
                    f"{tower}.{key} is {value!r} in the config and {start[tower].get(key)!r} in {name}; leave it out, "
                    "the checkpoint's towers are taken"
                )
        given[tower] = {**start[tower], **given[tower]}
    tokenizer = dict(values.get("tokenizer") or start["tokenizer"])
    if str(tokenizer.get("name")).startswith("train:"):
        raise ValueError(
            f"tokenizer.name {tokenizer['name']!r} would give the text tower of {name} ids that it was not trained "
            f"with; set it to {CHECKPOINT_TOKENIZER!r}, or leave it out"
        )
    objective = {**start["objective"], **dict(values.get("objective") or {})}
    preprocessing = values.get("preprocessing") or start["preprocessing"]
    return values | given | {"tokenizer": tokenizer, "objective": objective, "preprocessing": preprocessing}


def _start(found: Description) -> dict[str, Any]:
    scalars = found.scalars()
    objective = {"logit_scale": math.exp(scalars["logit_scale"])}
    if found.has_logit_bias:
        objective["logit_bias"] = scalars["logit_bias"]
    return {
        "vision": dataclasses.asdict(found.settings.vision),
        "text": dataclasses.asdict(found.settings.text),
        "tokenizer": {"name": CHECKPOINT_TOKENIZER},
        "preprocessing": dataclasses.asdict(found.preprocessing),
        "objective": objective,
    }

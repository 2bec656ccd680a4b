"""The project's own format of EfficientNet-Lite: a `config.json`, and tensors named and shaped as the parameters.

Batch norms are folded into the convolutions, so no other library opens the weights unchanged.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from foundation.files.safe_json import read_json
from foundation.settings import build
from models.checkpoints.weight_map import WeightEntry, WeightMap, parameter_shapes
from models.config import EfficientNetSettings, ModelSettings, StageSettings

MODEL_TYPE = "efficientnet_lite"
_ARCHITECTURE = "EfficientNetLite"
_DESCRIPTION = ("model_type", "architectures", "dtype")  # fields of the config that are no settings


def read_config(path: pathlib.Path, *, tensors: int) -> ModelSettings:
    """Read a `config.json`, whose weights are `tensors` in number; raise `ValueError` for invalid settings."""
    fields = {name: value for name, value in read_json(path).items() if name not in _DESCRIPTION}
    try:
        stages = fields.get("stages")
        if not isinstance(stages, list) or not stages:
            raise ValueError(f"stages is {stages!r}; it must be a list of stages")
        built = tuple(build(StageSettings, f"stages[{number}]", stage) for number, stage in enumerate(stages))
        depth = sum(stage.repeats for stage in built)
        if depth > tensors:  # before an array of each block is described
            raise ValueError(f"the config has {depth:,} blocks, but the file has only {tensors:,} tensors")
        return ModelSettings(vision=build(EfficientNetSettings, "config", fields | {"stages": built}), text=None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_config(settings: EfficientNetSettings, *, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a tower."""
    return {"architectures": [_ARCHITECTURE], "model_type": MODEL_TYPE, "dtype": dtype} | dataclasses.asdict(settings)


def weight_map_for(settings: ModelSettings) -> WeightMap:
    """Return the tensors of a tower, which are its parameters: "vision/stem/kernel" is tensor "stem.kernel"."""
    shapes: Mapping[str, tuple[int, ...]] = parameter_shapes(settings)
    entries = (WeightEntry(path.removeprefix("vision/").replace("/", "."), path) for path in shapes)
    return WeightMap(tuple(entries), {})

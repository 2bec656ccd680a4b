"""The format of aligned features: heads, or a head and a text tower, and the encoders whose features they map.

A folder has `config.json` with the model type `aligned_features`, `model.safetensors`, and the files of the tokenizer
if there is a text tower. The name of a tensor is the path of its parameter, with dots.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from foundation.files.atomic import atomic_folder, write_json
from foundation.files.checksum_file import write_checksums
from foundation.files.safe_json import read_json
from foundation.settings import build
from models.checkpoints.model_card import write_card
from models.checkpoints.replacing import check_replaceable
from models.checkpoints.weight_map import WeightEntry, WeightMap, parameter_shapes, to_tensors
from models.config import FeatureHeadSettings, ModelSettings, TextSettings
from models.text.tokenizer import Tokenizer

MODEL_TYPE = "aligned_features"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class RecordedEncoder(NamedTuple):
    """A record of the encoder of stored features, as far as it is known.

    name: path or Hub id of its checkpoint, or None.
    fingerprint: of everything that determines its embeddings, or None if `embed` did not compute them.
    weights: of its weights, or None.
    options: with which it was opened, by name, such as `dtype`.
    unit_length: whether the features had length 1.
    """

    name: str | None = None
    fingerprint: str | None = None
    weights: str | None = None
    options: Mapping[str, Any] = {}
    unit_length: bool = False


class AlignedModel(NamedTuple):
    """Settings, parameters and scalars of heads on features, with their encoders by side: "vision" and "text"."""

    settings: ModelSettings
    parameters: Mapping[str, Any]
    scalars: Mapping[str, float]
    encoders: Mapping[str, RecordedEncoder]
    tokenizer: Tokenizer | None


class AlignedConfig(NamedTuple):
    """The settings of a model and the encoders of its features, by side."""

    settings: ModelSettings
    encoders: dict[str, RecordedEncoder]


def is_aligned(folder: pathlib.Path) -> bool:
    """Return whether a folder has this format."""
    path = folder / CONFIG_FILE
    return path.is_file() and read_json(path).get("model_type") == MODEL_TYPE


def aligned_weight_map(settings: ModelSettings) -> WeightMap:
    """Return the map of the tensors to the parameters."""
    entries = tuple(WeightEntry(path.replace("/", "."), path) for path in parameter_shapes(settings))
    return WeightMap(entries, {"logit_scale": "logit_scale", "logit_bias": "logit_bias"})


def read_aligned_config(path: pathlib.Path) -> AlignedConfig:
    """Read a `config.json`; raises `ValueError` for invalid settings."""
    fields = read_json(path)
    try:
        sides = {}
        for side in ("vision", "text"):
            section = dict(fields[f"{side}_config"])
            tower = TextSettings if section.pop("kind_of_input", "features") == "tokens" else FeatureHeadSettings
            sides[side] = build(tower, side, section)
        encoders = {side: RecordedEncoder(**each) for side, each in dict(fields["encoders"]).items()}
        return AlignedConfig(ModelSettings(**sides), encoders)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a valid config of aligned features ({error}). Export it again.") from error


def save_aligned(folder: pathlib.Path, model: AlignedModel, *, dtype: str = "float32", card: str) -> pathlib.Path:
    """Write the folder of aligned features, complete or not at all; an existing checkpoint is replaced.

    Raises `FileExistsError` if `folder` is something other than a checkpoint.
    """
    from safetensors.numpy import save_file

    check_replaceable(folder)
    tensors = to_tensors(aligned_weight_map(model.settings), model.parameters, scalars=model.scalars, dtype=dtype)
    if any(not np.isfinite(tensor.astype(np.float32)).all() for tensor in tensors.values()):
        raise ValueError(f"the weights have values that are not finite in {dtype}. Use dtype float32.")
    with atomic_folder(folder) as temporary:
        write_json(temporary / CONFIG_FILE, _to_config(model, dtype))
        if model.tokenizer is not None:
            model.tokenizer.save(temporary)
        weights = temporary / WEIGHTS_FILE
        save_file(tensors, weights)
        weights.chmod((temporary / CONFIG_FILE).stat().st_mode & 0o777)
        write_checksums(temporary, [path.name for path in temporary.iterdir()])
        write_card(temporary, card, weights=WEIGHTS_FILE, replaced=folder)
    return folder


def _to_config(model: AlignedModel, dtype: str) -> dict[str, Any]:
    sections = {}
    for side in ("vision", "text"):
        settings = getattr(model.settings, side)
        kind = "features" if isinstance(settings, FeatureHeadSettings) else "tokens"
        sections[f"{side}_config"] = {"kind_of_input": kind, **dataclasses.asdict(settings)}
    encoders = {side: encoder._asdict() for side, encoder in model.encoders.items()}
    return {"model_type": MODEL_TYPE, "dtype": dtype, **sections, "encoders": encoders}

"""The encoders that aligned features record, and features of them that were stored."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from foundation.error_text import one_line
from models.checkpoints.aligned import CONFIG_FILE, RecordedEncoder
from models.checkpoints.describe import CheckpointDescription
from models.config import FeatureHeadSettings

E = TypeVar("E")
_INPUTS = {"vision": "images", "text": "texts"}
_UNIT = 1e-2  # deviation from length 1 of features that are normalised


def open_recorded(checkpoint: CheckpointDescription, side: str, open_encoder: Callable[..., E]) -> E:
    """Return `open_encoder(name, **options)` of the encoder whose features the head of a side maps.

    A relative name starts from the current folder, or else from that of the checkpoint. Raises `ValueError`, with what
    to do instead, if the encoder is not known or cannot be opened.
    """
    recorded, inputs = checkpoint.encoders.get(side, RecordedEncoder()), _INPUTS[side]
    kind = inputs.removesuffix("s")
    if recorded.name is None or recorded.fingerprint is None:
        known = (
            "an encoder that is not recorded" if recorded.name is None else f"{recorded.name}, which is not run here"
        )
        raise ValueError(
            f"{checkpoint.name} cannot embed {inputs}: it maps features of {known}. Compute its features, and "
            f"pass them as `embed --{kind}_features=FILE`, or to embed_features({inputs}=...)."
        )
    names = [os.path.expanduser(recorded.name), os.path.join(checkpoint.folder, recorded.name)]
    name = next(filter(os.path.exists, names), recorded.name)
    try:
        return open_encoder(
            name, **{key: tuple(value) if isinstance(value, list) else value for key, value in recorded.options.items()}
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{checkpoint.name} cannot embed {inputs}: their encoder {recorded.name} cannot be opened "
            f"({one_line(error)}). Put it there, or write its place into {checkpoint.folder / CONFIG_FILE}."
        ) from error


def check_recorded(checkpoint: CheckpointDescription, side: str, fingerprint: str) -> None:
    """Raise `ValueError` if an encoder does not have the fingerprint of the one whose features the head maps."""
    recorded = checkpoint.encoders[side]
    if fingerprint != recorded.fingerprint:
        raise ValueError(
            f"{recorded.name} is not the encoder whose features {checkpoint.name} maps: its fingerprint is "
            f"{fingerprint} instead of {recorded.fingerprint}. Restore that checkpoint."
        )


def check_features(checkpoint: CheckpointDescription, side: str, features: np.ndarray) -> None:
    """Raise `ValueError` for features that the head of a side was not trained on: dimensions, lengths, not finite."""
    head, inputs = getattr(checkpoint.settings, side), _INPUTS[side]
    if not isinstance(head, FeatureHeadSettings):
        raise ValueError(f"{checkpoint.name} takes {inputs} themselves, not their features: it has a tower for them")
    if features.ndim != 2 or features.shape[1] != head.input_dim:
        raise ValueError(
            f"the features of {inputs} have shape {list(features.shape)}, but {checkpoint.name} takes "
            f"[rows, {head.input_dim}]"
        )
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        raise ValueError(f"row {bad[0]} of the features of {inputs} has a value that is not finite")
    unit = checkpoint.encoders.get(side, RecordedEncoder()).unit_length and not head.normalize
    if unit and len(lengths) and np.abs(lengths - 1).max() > _UNIT:
        raise ValueError(
            f"{checkpoint.name} was trained on features of length 1, but these have lengths from "
            f"{lengths.min():.3g} to {lengths.max():.3g}. Normalise them."
        )

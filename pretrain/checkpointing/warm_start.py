"""The state that a run begins with, where it continues a checkpoint that another has trained."""

from __future__ import annotations

import logging
import math

import jax
import numpy as np

from models.checkpoints.io import describe_checkpoint
from models.checkpoints.weight_map import get_path
from pretrain.config.run import PretrainSettings
from pretrain.train_step import TrainState, TrainStep

logger = logging.getLogger(__name__)


def start_from_checkpoint(settings: PretrainSettings, training: TrainStep) -> TrainState:
    """Returns the state of a run that continues a checkpoint, each array read straight to where it lives."""
    found = describe_checkpoint(settings.initial_checkpoint, image_size=settings.vision.image_size)
    places = training.abstract_state.parameters["model"]

    def place(path: str, array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, get_path(places, path).sharding, array.__getitem__)

    state = training.init_from(found.read(place=place))
    scalars = ", ".join(f"{name} {getattr(settings.objective, name):.4g}" for name in ("logit_scale", "logit_bias"))
    logger.info(f"starting from {settings.initial_checkpoint}: {scalars}")
    theirs = found.scalars()
    theirs = {"logit_scale": math.exp(theirs["logit_scale"])} | (
        {"logit_bias": theirs["logit_bias"]} if found.has_logit_bias else {}
    )
    for name, value in theirs.items():
        if not math.isclose(value, getattr(settings.objective, name), rel_tol=1e-6):
            logger.info(f"note: the checkpoint's {name} is {value:.4g}; the config's objective.{name} is taken")
    return state

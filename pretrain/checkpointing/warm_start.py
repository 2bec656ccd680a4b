"""The initial state of a run that continues from a checkpoint trained elsewhere."""

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
    """Return the initial state with the weights of a checkpoint, each array read directly to its devices."""
    vision = settings.vision
    checkpoint = describe_checkpoint(
        settings.initial_checkpoint, image_size=vision.image_size, max_patches=vision.max_patches
    )
    if vision.max_patches is not None:
        height, width = vision.image_shape
        logger.info(
            f"{settings.initial_checkpoint} takes images of any aspect ratio (NaFlex). Training resizes all of them to "
            f"{height} × {width} pixels, {vision.num_patches} patches; the export takes up to {vision.max_patches}"
        )
    abstract = training.abstract_state.parameters["model"]

    def place(path: str, array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, get_path(abstract, path).sharding, array.__getitem__)

    state = training.init_from(checkpoint.read(place=place))
    scalars = ", ".join(f"{name} {getattr(settings.objective, name):.4g}" for name in ("logit_scale", "logit_bias"))
    logger.info(f"starting from {settings.initial_checkpoint}: {scalars}")
    stored = checkpoint.scalars()
    values = {"logit_scale": math.exp(stored["logit_scale"])}
    if checkpoint.has_logit_bias:
        values["logit_bias"] = stored["logit_bias"]
    for name, value in values.items():
        if not math.isclose(value, getattr(settings.objective, name), rel_tol=1e-6):
            logger.info(f"the checkpoint's {name} is {value:.4g}; objective.{name} of the config is used instead")
    return state

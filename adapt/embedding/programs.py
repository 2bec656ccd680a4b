"""The compiled functions that embed a batch of images or texts, and the number of rows of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.config import FeatureHeadSettings, ModelSettings
from models.naflex import PatchedImages
from models.preprocessing import Preprocessing
from models.towers import create_model

_MAX_ROWS = 256  # per device, for any number of devices: another shape would round differently
_ACTIVATION_BYTES = {"cpu": 25e6}  # of one layer per device, so that they fit into the caches of a processor
_ACTIVATION_BYTES_ELSEWHERE = 2e9


class EncoderPrograms(NamedTuple):
    """The compiled functions `(parameters, batch) → embeddings [rows, dim]`."""

    images: Callable[[dict[str, Any], jax.Array], jax.Array]
    patches: Callable[[dict[str, Any], PatchedImages], jax.Array]
    texts: Callable[[dict[str, Any], jax.Array], jax.Array]


@functools.lru_cache(maxsize=4)
def compile_programs(settings: ModelSettings, preprocessing: Preprocessing | None, mesh: Mesh) -> EncoderPrograms:
    """Return the compiled functions; checkpoints of one architecture share them."""
    model = create_model(settings, mesh=mesh if mesh.size > 1 else None)
    replicated = NamedSharding(mesh, PartitionSpec())

    def images(parameters: dict[str, Any], pixels: jax.Array) -> jax.Array:
        inputs = pixels if preprocessing is None else preprocessing.normalize(pixels)  # features are no pixels
        return model.embed_images(parameters, inputs).astype("float32")

    def patches(parameters: dict[str, Any], images: PatchedImages) -> jax.Array:
        pixels = images.patches.reshape(*images.patches.shape[:2], -1, 3)
        inputs = images._replace(patches=preprocessing.normalize(pixels).reshape(images.patches.shape))
        return model.embed_patches(parameters, inputs).astype("float32")

    def texts(parameters: dict[str, Any], tokens: jax.Array) -> jax.Array:
        return model.embed_texts(parameters, tokens).astype("float32")

    return EncoderPrograms(*(jax.jit(function, out_shardings=replicated) for function in (images, patches, texts)))


def choose_rows(settings: ModelSettings) -> int:
    """Return the number of rows that a device embeds at a time, a power of two; NaFlex: of the most patches."""
    vision = settings.vision
    if isinstance(vision, FeatureHeadSettings):  # then of the text tower, if there is one
        return _MAX_ROWS
    most = getattr(vision, "max_patches", None)
    values = vision.largest_activation if most is None else most * vision.mlp_width
    row_bytes = values * np.dtype(jax.numpy.dtype(settings.dtype)).itemsize
    rows = _ACTIVATION_BYTES.get(jax.default_backend(), _ACTIVATION_BYTES_ELSEWHERE) // row_bytes
    return min(2 ** int(np.log2(max(rows, 1))), _MAX_ROWS)

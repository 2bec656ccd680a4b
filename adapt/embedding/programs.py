"""The compiled functions that embed a batch of images or texts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.config import ModelSettings
from models.naflex import PatchedImages
from models.preprocessing import Preprocessing
from models.towers import create_model


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

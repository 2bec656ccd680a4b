"""Variants of the context objective that its paper does not have, for docs/STUDY.md: small towers, two seeds.

Batches have neighbours by text, four together.

`texts`: an image is rewritten by the images whose texts are like its own, instead of those that look like it. It is
computed for the whole batch on one device, so that it is a few lines; batches of thousands want blocks.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

import pretrain.settings
from configs.study_ablations import get_config as small_evaluation
from pretrain.context import Context
from pretrain.objective import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant(Objective):
    """The context objective with `neighbours` by "images" or by "texts"."""

    neighbours: str = "images"

    def contextualize(self, image_embeddings, text_embeddings, temperature, layout):
        """Returns softmax(t tᵀ / (exp(temperature) sqrt(dim)), own entry masked) u, without gradient through t."""
        if self.neighbours == "images":
            return super().contextualize(image_embeddings, text_embeddings, temperature, layout)
        t = jax.lax.stop_gradient(text_embeddings.astype(jnp.float32))
        t = t / jnp.maximum(jnp.linalg.norm(t, axis=1, keepdims=True), 1e-12)
        logits = t @ t.T / (jnp.exp(temperature) * math.sqrt(t.shape[1]))
        attention = jax.nn.softmax(jnp.where(jnp.eye(len(t), dtype=bool), -jnp.inf, logits), axis=1)
        entropy = -jnp.sum(jax.scipy.special.xlogy(attention, attention), axis=1)
        return Context(attention @ image_embeddings.astype(jnp.float32), jax.lax.stop_gradient(jnp.exp(entropy)))


def get_config():
    pretrain.settings.SECTIONS["objective"] = Variant  # what the section `objective` is read as
    config = small_evaluation()
    config.pretrain.data.group_size = 4
    config.pretrain.objective.neighbours = "images"
    config.pretrain.objective.context_temperature = 0.03
    return config


def get_sweep() -> list[dict]:
    arms = [
        {"context": False},
        {"context": True, "neighbours": "images", "alpha": 0.5},
        {"context": True, "neighbours": "texts", "alpha": 0.5},
        {"context": True, "neighbours": "texts", "alpha": 0.9},
    ]
    return [
        {"pretrain.seed": seed, **{f"pretrain.objective.{key}": value for key, value in arm.items()}}
        for seed in (0, 1)
        for arm in arms
    ]

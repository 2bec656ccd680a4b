"""Variants of the context objective that its paper does not have, for docs/STUDY.md: small towers, one seed.

`neighbours` "texts": an image is rewritten by the images whose texts are like its own, instead of those that look like
it. `memory`: it is rewritten by so many images of earlier batches too, as they were embedded then. Both are computed
for the whole batch on one device, so that they are a few lines; a run that is continued begins with an empty memory.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

import pretrain.config.run
from configs.study.ablations import get_config as small_evaluation
from pretrain.losses.context_objective import Objective
from pretrain.losses.contextual_attention import Context

_remembered: dict[int, np.ndarray] = {}  # of this process's run, by the size of the memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant(Objective):
    """The context objective with `neighbours` by "images" or by "texts", and a `memory` of so many images."""

    neighbours: str = "images"
    memory: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory and self.neighbours != "images":
            raise ValueError(f"objective.memory {self.memory} is of images, not of {self.neighbours}; leave one out")

    def contextualize(self, image_embeddings, text_embeddings, temperature, layout):
        """Returns softmax(q kᵀ / (exp(temperature) sqrt(dim)), own entry masked) v.

        v are the images of the batch and of the memory, k their unit vectors and q those of the batch; with
        `neighbours` "texts" q and k are of the batch's texts. No gradient flows through memory and texts.
        """
        if self.neighbours == "images" and not self.memory:
            return super().contextualize(image_embeddings, text_embeddings, temperature, layout)
        values = image_embeddings.astype(jnp.float32)
        queries = keys = values
        if self.neighbours == "texts":
            queries = keys = jax.lax.stop_gradient(text_embeddings.astype(jnp.float32))
        if self.memory:
            keys = values = jnp.concatenate([values, jax.lax.stop_gradient(self.recall(values))])
        norms = (jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, keys))
        x, y = (rows / jnp.maximum(norm, 1e-12) for rows, norm in zip((queries, keys), norms, strict=True))
        logits = x @ y.T / (jnp.exp(temperature) * math.sqrt(x.shape[1]))
        hidden = jnp.eye(*logits.shape, dtype=bool) | ~jnp.any(keys != 0, axis=1)  # itself, and what is not there yet
        attention = jax.nn.softmax(jnp.where(hidden, -jnp.inf, logits), axis=1)
        entropy = -jnp.sum(jax.scipy.special.xlogy(attention, attention), axis=1)
        return Context(attention @ values, jax.lax.stop_gradient(jnp.exp(entropy)))

    def recall(self, rows):
        """Returns the memory `[memory, dim]`, zeros where there is nothing yet, and puts the rows first in it."""
        shape = jax.ShapeDtypeStruct((self.memory, rows.shape[1]), jnp.float32)
        return io_callback(functools.partial(remember, self.memory), shape, jax.lax.stop_gradient(rows))


def remember(size, rows):
    """Returns the memory `[size, dim]`, zeros where there is nothing yet, and puts the rows `[batch, dim]` first."""
    rows = np.asarray(rows)
    old = _remembered.get(size, np.zeros((size, rows.shape[1]), np.float32))
    _remembered[size] = np.concatenate([rows, old])[:size]
    return old


def get_config():
    pretrain.config.run.SECTIONS["objective"] = Variant  # what the section `objective` is read as
    config = small_evaluation()
    config.pretrain.objective.neighbours = "images"
    config.pretrain.objective.memory = 0
    config.pretrain.objective.context_temperature = 0.03
    return config


def get_sweep() -> list[dict]:
    together = [
        {"context": False},
        {"context": True, "neighbours": "images", "alpha": 0.5},
        {"context": True, "neighbours": "texts", "alpha": 0.5},
    ]
    as_they_come = [{"context": False}, *({"context": True, "memory": 2560, "alpha": alpha} for alpha in (0.5, 0.0))]
    return [
        {
            "pretrain.seed": seed,
            "pretrain.data.group_size": group_size,
            **{f"pretrain.objective.{key}": value for key, value in arm.items()},
        }
        for seed in (0,)
        for group_size, arms in ((1, as_they_come), (4, together))
        for arm in arms
    ]

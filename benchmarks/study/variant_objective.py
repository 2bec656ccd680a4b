"""Variants of the context objective that its paper does not have, and launch.py with their settings.

    python -m benchmarks.study.variant_objective pretrain --config=configs/study/variants.py --workdir=runs/variant

`main` makes `pretrain.objective` a `VariantObjective`, whose settings configs/study/variants.py names, and runs any job
of launch.py. The variants are computed for the whole batch on one device, in a few lines each.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

import launch
from pretrain.config.run import SECTIONS
from pretrain.losses.context_objective import Objective
from pretrain.losses.contextual_attention import Context
from pretrain.losses.pairwise_blocks import BlockLayout

_remembered: dict[int, np.ndarray] = {}  # the memory of this process's run, by its size


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariantObjective(Objective):
    """The context objective with attention by texts, or with a memory of earlier batches.

    With `neighbours` "texts", an image is rewritten by the images whose texts are similar to its own, instead of by
    those that look similar ("images"). With `memory`, it is also rewritten by that many images of earlier batches, as
    they were embedded then. A resumed run starts with an empty memory.
    """

    neighbours: str = "images"
    memory: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory and self.neighbours != "images":
            raise ValueError(
                f"objective.memory {self.memory} needs neighbours 'images', not {self.neighbours!r}; set one of them"
            )

    def contextualize(
        self, image_embeddings: jax.Array, text_embeddings: jax.Array, temperature: jax.Array, layout: BlockLayout
    ) -> Context:
        """Return softmax(q kᵀ / (exp(temperature) √dim), own entry masked) v.

        The values v are the images of the batch and of the memory, the keys k are their unit vectors, and the queries q
        are those of the batch. With `neighbours` "texts", q and k are the batch's texts. No gradient flows through the
        memory or the texts.
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
        hidden = jnp.eye(*logits.shape, dtype=bool) | ~jnp.any(keys != 0, axis=1)  # itself, and empty memory
        attention = jax.nn.softmax(jnp.where(hidden, -jnp.inf, logits), axis=1)
        entropy = -jnp.sum(jax.scipy.special.xlogy(attention, attention), axis=1)
        return Context(attention @ values, jax.lax.stop_gradient(jnp.exp(entropy)))

    def recall(self, rows: jax.Array) -> jax.Array:
        """Return the memory `[memory, dim]`, zero where it is empty, then store the `rows` `[batch, dim]` in it."""
        shape = jax.ShapeDtypeStruct((self.memory, rows.shape[1]), jnp.float32)
        return io_callback(functools.partial(remember, self.memory), shape, jax.lax.stop_gradient(rows))


def remember(size: int, rows: np.ndarray) -> np.ndarray:
    """Return the memory `[size, dim]`, zero where it is empty, then put the `rows` `[batch, dim]` first in it."""
    rows = np.asarray(rows)
    old = _remembered.get(size, np.zeros((size, rows.shape[1]), np.float32))
    _remembered[size] = np.concatenate([rows, old])[:size]
    return old


def register() -> None:
    """Read the section `pretrain.objective` of configs and of finished runs as a `VariantObjective` from now on."""
    SECTIONS["objective"] = VariantObjective


def main(arguments: list[str] | None = None) -> int:
    """Run a job of launch.py with the variants' settings; return its exit code."""
    register()
    return launch.main(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Tip-Adapter: zero-shot logits plus a cache of the examples (arXiv 2111.03930, equations 3 to 6)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import affinity, class_sums, in_blocks
from adapt.adapters.support import CLASS_WEIGHTS, Support, pytree, static
from adapt.adapters.validation import check_at_least, check_one_of


@pytree
class TipAdapter(Adapter):
    """logits = scale · x·w_c + alpha Σ_k exp(−beta (1 − x·s_k)) 1[y_k = c]; without text the second term alone.

    `alpha` weighs the examples against the text, `beta` says how near an example must be to count. With the
    `class_weight` "balanced" an example of class c counts n̄ / n_c, n̄ the mean number of examples of a class, which is
    1 for supports as in the paper; "none" takes the sum as it is.
    """

    name = "tip_adapter"
    alpha: float = 1.0
    beta: float = 5.5
    class_weight: str = static("balanced")

    weights = ("alpha",)
    grid = {"alpha": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0), "beta": (5.5, 1.0, 2.5, 10.0, 20.0, 40.0, 80.0)}

    def check(self) -> None:
        check_at_least(self, 0, "alpha", "beta")
        check_one_of(self, "class_weight", CLASS_WEIGHTS)

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        weighted = affinity(x, support.features, self.beta) * support.row_weights(self.class_weight)
        return support.zero_shot(x), class_sums(weighted, support.labels, support.num_classes)

    def left_out(self, support: Support, *, key: jax.Array) -> Terms:
        def block(x: jax.Array, row: jax.Array) -> jax.Array:
            others = row[:, None] != jnp.arange(len(support.labels))
            near = jnp.where(others, affinity(x, support.features, self.beta), 0.0)
            return class_sums(near, support.labels, support.num_classes)

        rows = jnp.arange(len(support.labels))
        cached = in_blocks(block, len(rows), support.features, rows)
        return support.zero_shot(support.features), cached * support.left_out_weights(self.class_weight)

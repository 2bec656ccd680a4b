"""Tip-Adapter: zero-shot logits plus a cache of the support examples (arXiv 2111.03930, equations 3 to 6)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import affinity, class_sums, in_blocks
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.support import CLASS_WEIGHTS, Support
from adapt.adapters.validation import check_at_least, check_one_of


@pytree
class TipAdapter(Adapter):
    """logits = scale · x·w_c + alpha Σ_k exp(−beta (1 − x·s_k)) 1[y_k = c].

    `alpha` is the weight of the support examples relative to the text, and `beta` the sharpness of the affinity. With
    `class_weight` "balanced", an example of class c has the weight n̄ / n_c, where n_c is the number of examples of
    class c and n̄ its mean over classes; for balanced support sets this is 1, as in the paper. With "none" it is always
    1. Without class texts, the logits are the second term.
    """

    name = "tip_adapter"
    alpha: float = 1.0
    beta: float = 5.5
    class_weight: str = static("balanced")

    term_weights = ("alpha",)
    grid = {"alpha": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0), "beta": (5.5, 1.0, 2.5, 10.0, 20.0, 40.0, 80.0)}

    def check_settings(self) -> None:
        check_at_least(self, 0, "alpha", "beta")
        check_one_of(self, "class_weight", CLASS_WEIGHTS)

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        weighted = affinity(x, support.features, self.beta) * support.row_weights(self.class_weight)
        return support.zero_shot(x), class_sums(weighted, support.labels, support.num_classes)

    def leave_one_out(self, support: Support, *, key: jax.Array) -> Terms:
        def block(x: jax.Array, row: jax.Array) -> jax.Array:
            others = row[:, None] != jnp.arange(len(support.labels))
            near = jnp.where(others, affinity(x, support.features, self.beta), 0.0)
            return class_sums(near, support.labels, support.num_classes)

        rows = jnp.arange(len(support.labels))
        cached = in_blocks(block, len(rows), support.features, rows)
        return support.zero_shot(support.features), cached * support.leave_one_out_weights(self.class_weight)

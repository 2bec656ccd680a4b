"""Tip-Adapter-F: Tip-Adapter with trained keys (arXiv 2111.03930, section 3.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import class_sums, in_blocks, matmul
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.solvers import descend, row_losses
from adapt.adapters.support import CLASS_WEIGHTS, Support
from adapt.adapters.validation import check_at_least, check_one_of, check_positive


@pytree
class TipAdapterF(Adapter):
    """logits = scale · x·w_c + alpha Σ_k exp(−beta (1 − x·S_k)) 1[y_k = c], S trained on the mean CE.

    The keys S `[n, dim]` start at the support examples, so zero steps give Tip-Adapter, and are not normalised. A class
    without examples keeps its text, but loses against growing keys: if there are such classes, use `local` around this
    method (docs/guides/adapters.md).
    """

    name = "tip_adapter_f"
    alpha: float = 3.0
    beta: float = 5.5
    learning_rate: float = 0.001
    steps: int = static(30)
    class_weight: str = static("balanced")

    training_free = False
    needs_text = True
    grid = {"alpha": (3.0, 1.0, 10.0), "beta": (5.5, 2.5)}

    def check_settings(self) -> None:
        check_at_least(self, 0, "alpha", "beta", "steps")
        check_positive(self, "learning_rate")
        check_one_of(self, "class_weight", CLASS_WEIGHTS)

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        n = jnp.maximum(jnp.sum(support.labels >= 0), 1)

        def loss(params: State) -> jax.Array:
            @jax.checkpoint  # so that the affinities of all examples and keys are not stored for the gradient
            def block(x: jax.Array, members: jax.Array) -> jax.Array:
                return row_losses(self._logits(params, support, x), members, support.counts > 0)

            return jnp.sum(in_blocks(block, len(support.labels), support.features, support.members)) / n

        start = {"keys": support.features} if start is None else start
        return descend(loss, start, learning_rate=self.learning_rate, steps=self.steps)

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        start = {"keys": jnp.concatenate([state["keys"], new.features[len(old.labels) :]])}
        return self.fit_state(new, key=key, start=start)

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (self._logits(state, support, x),)

    def _logits(self, state: State, support: Support, x: jax.Array) -> jax.Array:
        affinity = jnp.exp(self.beta * (matmul(x, state["keys"].T) - 1))
        return support.zero_shot(x) + self.alpha * class_sums(
            affinity * support.row_weights(self.class_weight), support.labels, support.num_classes
        )

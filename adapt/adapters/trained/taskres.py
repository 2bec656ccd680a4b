"""TaskRes: a learned residual on the class texts (arXiv 2211.10277, section 3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import cosines, normalize
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.solvers import descend, mean_loss, pad_classes
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least, check_positive


@pytree
class TaskRes(Adapter):
    """logits = scale · x·unit(w_c + alpha · R_c), R trained from zero on the mean cross-entropy.

    A class without examples keeps its text.
    """

    name = "taskres"
    alpha: float = 0.5
    learning_rate: float = 0.0005
    steps: int = static(100)

    training_free = False
    needs_text = True
    grid = {"learning_rate": (0.0005, 0.00025, 0.001, 0.002, 0.005)}

    def check_settings(self) -> None:
        check_at_least(self, 0, "alpha", "steps")
        check_positive(self, "learning_rate")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        def loss(params: State) -> jax.Array:
            return mean_loss(self._logits(params, support, support.features), support)

        start = {"residual": jnp.zeros_like(support.class_text_features)} if start is None else start
        return descend(loss, start, learning_rate=self.learning_rate, steps=self.steps)

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.fit_state(new, key=key, start=pad_classes(state, old, new))

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (self._logits(state, support, x),)

    def _logits(self, state: State, support: Support, x: jax.Array) -> jax.Array:
        vectors = normalize(support.class_text_features + self.alpha * state["residual"])
        return support.logit_scale * cosines(x, vectors)

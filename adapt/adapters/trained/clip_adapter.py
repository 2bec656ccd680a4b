"""CLIP-Adapter: a small residual network on the image features (arXiv 2110.04544, section 3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import cosines, matmul, normalize
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.solvers import descend, mean_loss
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least, check_fraction, check_positive


@pytree
class ClipAdapter(Adapter):
    """logits = scale · x'·w_c, x' = unit(ratio · relu(relu(x A) B) + (1 − ratio) · x), A and B trained on the mean CE.

    A `[dim, dim / reduction]` and B `[dim / reduction, dim]` have the random initialisation for rectifiers of
    arXiv 1502.01852. The logit of a class without examples uses x instead of x', so that it keeps its text.
    """

    name = "clip_adapter"
    ratio: float = 0.2
    learning_rate: float = 0.001
    reduction: int = static(4)
    steps: int = static(100)

    training_free = False
    needs_text = True
    grid = {"ratio": (0.2, 0.5), "learning_rate": (0.001, 0.0003, 0.003)}

    def check_settings(self) -> None:
        check_positive(self, "learning_rate")
        check_at_least(self, 1, "reduction")
        check_at_least(self, 0, "steps")
        check_fraction(self, "ratio")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        if start is None:
            dim = support.features.shape[1]
            width = max(1, dim // self.reduction)
            key_in, key_out = jax.random.split(key)
            start = {
                "into": jax.random.normal(key_in, (dim, width)) * jnp.sqrt(2 / dim),
                "out": jax.random.normal(key_out, (width, dim)) * jnp.sqrt(2 / width),
            }

        def loss(params: State) -> jax.Array:
            return mean_loss(self._adapted(params, support, support.features), support)

        return descend(loss, start, learning_rate=self.learning_rate, steps=self.steps)

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.fit_state(new, key=key, start=state)

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (jnp.where(support.counts > 0, self._adapted(state, support, x), support.zero_shot(x)),)

    def _adapted(self, state: State, support: Support, x: jax.Array) -> jax.Array:
        residual = jax.nn.relu(matmul(jax.nn.relu(matmul(x, state["into"])), state["out"]))
        mixed = normalize(self.ratio * residual + (1 - self.ratio) * x)
        return support.logit_scale * cosines(mixed, support.class_text_features)

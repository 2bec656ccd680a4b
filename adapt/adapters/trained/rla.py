"""The Regularized Linear Adapter: a linear map of the images near the identity (arXiv 2410.05270, the paper of ProLIP).

ProLIP itself trains the last projection W of the image tower from its start W₀, with the penalty λ ‖W − W₀‖². This is
the authors' method for features that are already projected. It is not the same: A W₀ with the penalty λ ‖A − I‖² weighs
directions otherwise, and cannot use directions of the tower that W₀ discards.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import cosines, matmul, normalize
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.solvers import descend, mean_loss
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least, check_positive

_EPSILON = 1e-4  # of Adam, the authors' value


@pytree
class Rla(Adapter):
    """logits = scale · unit(A x)·w_c, A trained from the identity on the mean CE + λ ‖A − I‖²_F.

    λ = `constraint` / n̄, where n̄ is the mean number of examples of the classes that have any: the number of shots of a
    balanced support set, for which this is the authors' λ = 1 / shots. They train on random views of each image; here
    the features of an image are fixed. The logit of a class without examples uses x instead of A x, so that it keeps
    its text.
    """

    name = "rla"
    constraint: float = 1.0
    learning_rate: float = 0.0001
    steps: int = static(300)

    training_free = False
    needs_text = True
    grid = {"learning_rate": (0.0001, 0.00001, 0.001, 0.01)}

    def check_settings(self) -> None:
        check_at_least(self, 0, "constraint", "steps")
        check_positive(self, "learning_rate")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        identity = jnp.eye(support.features.shape[1])
        shots = support.counts.sum() / jnp.maximum(jnp.sum(support.counts > 0), 1)
        weight = self.constraint / jnp.maximum(shots, 1)

        def loss(params: State) -> jax.Array:
            away = jnp.sum(jnp.square(params["map"] - identity))
            return mean_loss(_adapted(params, support, support.features), support) + weight * away

        start = {"map": identity} if start is None else start
        return descend(loss, start, learning_rate=self.learning_rate, steps=self.steps, epsilon=_EPSILON)

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.fit_state(new, key=key, start=state)

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (jnp.where(support.counts > 0, _adapted(state, support, x), support.zero_shot(x)),)


def _adapted(state: State, support: Support, x: jax.Array) -> jax.Array:
    return support.logit_scale * cosines(normalize(matmul(x, state["map"].T)), support.class_text_features)

"""LP++: a linear probe with a learned text weight per class (arXiv 2404.02285, sections 3 and 4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import cosines, matmul
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.solvers import mean_loss, pad_classes
from adapt.adapters.support import Support
from adapt.adapters.trained.linear_probe import join_zero_shot
from adapt.adapters.validation import check_at_least


@pytree
class LpPlusPlus(Adapter):
    """logits = x·W_c + b_c + a_c · x·w_c, trained on the mean cross-entropy by gradient descent.

    W_c starts at the sum of the class's support examples, b at zero, and every a_c at `text_start` times the mean of
    x·w_y over the support examples. The step sizes follow from the support features F `[n, dim]`: 4 n / λmax(FᵀF) for
    W and b, with `momentum`, and n / (4 max_c Σ (x·w_c)²) for a. Each of the `steps` updates all three. A class
    without examples has the logit scale · x·w_c, see `join_zero_shot`.
    """

    name = "lp_plus_plus"
    text_start: float = 250.0
    momentum: float = 0.9
    steps: int = static(300)

    training_free = False
    needs_text = True
    text_logits = False

    def check_settings(self) -> None:
        check_at_least(self, 0, "text_start", "momentum", "steps")
        if not self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} is not less than 1; use a value in [0, 1)")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        features = jnp.where(support.labels[:, None] >= 0, support.features, 0.0)
        texts = cosines(features, support.class_text_features)
        n = jnp.maximum(jnp.sum(support.labels >= 0), 1)
        step_size = 4 * n / jnp.maximum(jnp.linalg.eigvalsh(matmul(features.T, features))[-1], 1e-6)
        text_step_size = n / (4 * jnp.maximum(jnp.max(jnp.sum(jnp.square(texts), axis=0)), 1e-6))

        def loss(params: State) -> jax.Array:
            linear = matmul(features, params["weights"].T) + params["bias"]
            return mean_loss(linear + params["text_weights"] * texts, support)

        def step(carry: tuple[State, State], _: None) -> tuple[tuple[State, State], None]:
            params, velocity = carry
            gradient = jax.grad(loss)(params)
            velocity = {name: self.momentum * velocity[name] + gradient[name] for name in velocity}
            moved = {name: params[name] - step_size * velocity[name] for name in velocity}
            text_weights = params["text_weights"] - text_step_size * gradient["text_weights"]
            return ({**moved, "text_weights": text_weights}, velocity), None

        start = self._initial_state(support) if start is None else start
        at_rest = {name: jnp.zeros_like(start[name]) for name in ("weights", "bias")}
        (params, _), _ = jax.lax.scan(step, (start, at_rest), length=self.steps)
        return params

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        """Start classes that had no support images as in a first fit, and the remaining classes from `state`."""
        trained = pad_classes({"trained": old.counts > 0}, old, new)["trained"]
        pairs = pad_classes(state, old, new), self._initial_state(new)
        start = jax.tree.map(lambda a, b: jnp.where(trained.reshape(-1, *[1] * (a.ndim - 1)), a, b), *pairs)
        return self.fit_state(new, key=key, start=start)

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        linear = matmul(x, state["weights"].T) + state["bias"]
        logits = linear + state["text_weights"] * cosines(x, support.class_text_features)
        return (join_zero_shot(support, logits, support.zero_shot(x)),)

    def _initial_state(self, support: Support) -> State:
        members = support.members
        own = jnp.sum(members * cosines(support.features, support.class_text_features))
        mean = own / jnp.maximum(jnp.sum(support.labels >= 0), 1)
        return {
            "weights": matmul(members.T, support.features),
            "bias": jnp.zeros(support.num_classes),
            "text_weights": jnp.full(support.num_classes, self.text_start * mean),
        }

"""LP++: a linear probe that blends in the text, class by class (arXiv 2404.02285, sections 3 and 4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.linear_probe import beside_text
from adapt.adapters.ops import cosines, matmul
from adapt.adapters.solvers import grown, mean_loss
from adapt.adapters.support import Support, pytree, static
from adapt.adapters.validation import check_at_least


@pytree
class LpPlusPlus(Adapter):
    """logits = x·W_c + b_c + a_c · x·w_c, trained on the mean cross-entropy by gradient descent.

    W_c starts at the sum of the class's examples, b at zero, every a_c at `text_start` times the mean of x·w_y over
    the examples. The lengths of the steps follow from the features F `[n, dim]`: 4 n / λmax(FᵀF) for W and b, with
    `momentum`, and n / (4 max_c Σ (x·w_c)²) for a; each of the `steps` takes both. A class without examples has the
    logit scale · x·w_c, and text decides between classes with examples and without.
    """

    name = "lp_plus_plus"
    text_start: float = 250.0
    momentum: float = 0.9
    steps: int = static(300)

    training_free = False
    needs_text = True
    text_logits = False
    closed_form = False

    def check(self) -> None:
        check_at_least(self, 0, "text_start", "momentum", "steps")
        if not self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} is not less than 1")

    def learn(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        features = jnp.where(support.labels[:, None] >= 0, support.features, 0.0)
        texts = cosines(features, support.class_text_features)
        n = jnp.maximum(jnp.sum(support.labels >= 0), 1)
        step = 4 * n / jnp.maximum(jnp.linalg.eigvalsh(matmul(features.T, features))[-1], 1e-6)
        text_step = n / (4 * jnp.maximum(jnp.max(jnp.sum(jnp.square(texts), axis=0)), 1e-6))

        def loss(params: State) -> jax.Array:
            linear = matmul(features, params["weights"].T) + params["bias"]
            return mean_loss(linear + params["text_weights"] * texts, support)

        def descended(carry: tuple[State, State], _: None) -> tuple[tuple[State, State], None]:
            params, speed = carry
            gradient = jax.grad(loss)(params)
            speed = {name: self.momentum * speed[name] + gradient[name] for name in speed}
            moved = {name: params[name] - step * speed[name] for name in speed}
            text_weights = params["text_weights"] - text_step * gradient["text_weights"]
            return ({**moved, "text_weights": text_weights}, speed), None

        start = self._first(support) if start is None else start
        rest = {name: jnp.zeros_like(start[name]) for name in ("weights", "bias")}
        (params, _), _ = jax.lax.scan(descended, (start, rest), length=self.steps)
        return params

    def learn_more(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        learned = grown({"there": old.counts > 0}, old, new)["there"]
        pairs = grown(state, old, new), self._first(new)
        start = jax.tree.map(lambda a, b: jnp.where(learned.reshape(-1, *[1] * (a.ndim - 1)), a, b), *pairs)
        return self.learn(new, key=key, start=start)

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        linear = matmul(x, state["weights"].T) + state["bias"]
        logits = linear + state["text_weights"] * cosines(x, support.class_text_features)
        return (beside_text(support, logits, support.zero_shot(x)),)

    def _first(self, support: Support) -> State:
        members = support.members
        own = jnp.sum(members * cosines(support.features, support.class_text_features))
        mean = own / jnp.maximum(jnp.sum(support.labels >= 0), 1)
        return {
            "weights": matmul(members.T, support.features),
            "bias": jnp.zeros(support.num_classes),
            "text_weights": jnp.full(support.num_classes, self.text_start * mean),
        }

"""Logistic regression on the features, and logistic regression that starts from the text."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import matmul
from adapt.adapters.solvers import grown, minimize, row_losses
from adapt.adapters.support import Support, pytree, static
from adapt.adapters.validation import check_at_least, check_positive


def beside_text(support: Support, logits: jax.Array, zero_shot: jax.Array) -> jax.Array:
    """Returns `logits` `[queries, classes]` of which those of classes without examples are `zero_shot`.

    The others are shifted, each row by one number, so that the largest is as large as it is in `zero_shot`: whether
    a query is of a class with examples or of one without is what the text says. Without text, a class without
    examples is less likely than the least likely one.
    """
    known = support.counts > 0
    least = jnp.min(logits, axis=1, keepdims=True, where=known, initial=jnp.inf)
    if support.class_text_features is None:
        return jnp.where(known, logits, least - 1)
    largest, texts = (
        jnp.max(values, axis=1, keepdims=True, where=known, initial=-jnp.inf) for values in (logits, zero_shot)
    )
    shift = jnp.where(jnp.all(known) | ~jnp.any(known), 0.0, texts - largest)
    return jnp.where(known, logits + shift, zero_shot)


@pytree
class LinearProbe(Adapter):
    """logits = x·W_c + b_c of the W, b that minimise c · Σ_k CE_k + ½ ‖W‖², CE_k the cross-entropy of example k.

    The optimum is that of scikit-learn's `LogisticRegression(C=c)` on unit features. Text is not used, but where a
    class has no examples: then its logit is scale · x·w_c, and text decides between classes with examples and without.
    `iterations` bounds those of the solver.
    """

    name = "linear_probe"
    c: float = 30.0
    iterations: int = static(500)

    training_free = False
    text_logits = False
    closed_form = False
    grid = {"c": (30.0, 3.0, 10.0, 100.0, 300.0)}

    def check(self) -> None:
        check_positive(self, "c")
        check_at_least(self, 0, "iterations")

    def learn(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        members, known, classes = support.members, support.counts > 0, support.num_classes
        n = jnp.maximum(jnp.sum(support.labels >= 0), 1)
        # The bias takes up any shift of the features; about their mean the problem is far better conditioned.
        center = jnp.sum(members.sum(axis=1)[:, None] * support.features, axis=0) / n
        x = support.features - center

        def objective(params: State) -> jax.Array:
            losses = row_losses(matmul(x, params["weights"].T) + params["bias"], members, known)
            return self.c * jnp.sum(losses) + jnp.sum(jnp.square(params["weights"])) / 2

        if start is None:
            start = {"weights": jnp.zeros((classes, x.shape[1])), "bias": jnp.zeros(classes)}
        start = {**start, "bias": start["bias"] + matmul(start["weights"], center)}
        found = minimize(objective, start, iterations=self.iterations)
        return {**found, "bias": found["bias"] - matmul(found["weights"], center)}

    def learn_more(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.learn(new, key=key, start=grown(state, old, new))

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        logits = matmul(x, state["weights"].T) + state["bias"]
        return (beside_text(support, logits, support.zero_shot(x)),)


@pytree
class LinearProbeText(Adapter):
    """logits = scale · x·w_c + x·D_c of the D that minimise c · Σ_k CE_k + ½ ‖D‖².

    That is logistic regression whose weights are drawn to scale · w_c instead of to zero: the less the examples say,
    the nearer it is to zero-shot, which it starts from. A class without examples keeps its text. `iterations` bounds
    those of the solver.
    """

    name = "linear_probe_text"
    c: float = 30.0
    iterations: int = static(500)

    training_free = False
    needs_text = True
    closed_form = False
    grid = {"c": (30.0, 1.0, 10.0, 100.0, 1000.0)}

    def check(self) -> None:
        check_positive(self, "c")
        check_at_least(self, 0, "iterations")

    def learn(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        members, known, zero_shot = support.members, support.counts > 0, support.zero_shot(support.features)

        def objective(params: State) -> jax.Array:
            losses = row_losses(zero_shot + matmul(support.features, params["difference"].T), members, known)
            return self.c * jnp.sum(losses) + jnp.sum(jnp.square(params["difference"])) / 2

        start = {"difference": jnp.zeros_like(support.class_text_features)} if start is None else start
        return minimize(objective, start, iterations=self.iterations)

    def learn_more(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.learn(new, key=key, start=grown(state, old, new))

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (support.zero_shot(x) + matmul(x, state["difference"].T),)

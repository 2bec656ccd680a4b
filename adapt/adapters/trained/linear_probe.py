"""Logistic regression on the features, from zero (`linear_probe`) or from the class texts (`linear_probe_text`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import matmul
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.solvers import minimize, pad_classes, row_losses
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least, check_positive


def join_zero_shot(support: Support, logits: jax.Array, zero_shot: jax.Array) -> jax.Array:
    """Return `logits` `[queries, classes]` with the `zero_shot` logits for the classes without support examples.

    The logits of the other classes are shifted, by one number per row, so that their maximum equals their maximum in
    `zero_shot`. So the texts decide between the classes with examples and those without. Without class texts, a class
    without examples gets a logit below all others.
    """
    known = support.counts > 0
    smallest = jnp.min(logits, axis=1, keepdims=True, where=known, initial=jnp.inf)
    if support.class_text_features is None:
        return jnp.where(known, logits, smallest - 1)
    largest, texts = (
        jnp.max(values, axis=1, keepdims=True, where=known, initial=-jnp.inf) for values in (logits, zero_shot)
    )
    shift = jnp.where(jnp.all(known) | ~jnp.any(known), 0.0, texts - largest)
    return jnp.where(known, logits + shift, zero_shot)


@pytree
class LinearProbe(Adapter):
    """logits = x·W_c + b_c, where W and b minimise c · Σ_k CE_k + ½ ‖W‖²; CE_k is the cross-entropy of example k.

    The optimum is that of scikit-learn's `LogisticRegression(C=c)` on normalised features. Class texts are used only if
    a class has no examples: its logit is then scale · x·w_c, see `join_zero_shot`. `iterations` is the maximum number
    of solver iterations.
    """

    name = "linear_probe"
    c: float = 30.0
    iterations: int = static(500)

    training_free = False
    text_logits = False
    grid = {"c": (30.0, 3.0, 10.0, 100.0, 300.0)}

    def check_settings(self) -> None:
        check_positive(self, "c")
        check_at_least(self, 0, "iterations")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        members, known, classes = support.members, support.counts > 0, support.num_classes
        n = jnp.maximum(jnp.sum(support.labels >= 0), 1)
        # The bias absorbs a shift of the features. Centred features make the problem far better conditioned.
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

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.fit_state(new, key=key, start=pad_classes(state, old, new))

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        logits = matmul(x, state["weights"].T) + state["bias"]
        return (join_zero_shot(support, logits, support.zero_shot(x)),)


@pytree
class LinearProbeText(Adapter):
    """logits = scale · x·w_c + x·D_c, where D minimises c · Σ_k CE_k + ½ ‖D‖².

    This is logistic regression whose weights are regularised towards scale · w_c instead of zero. It starts from
    zero-shot and stays closer to it the smaller `c` is. A class without examples keeps its text. `iterations` is the
    maximum number of solver iterations.
    """

    name = "linear_probe_text"
    c: float = 30.0
    iterations: int = static(500)

    training_free = False
    needs_text = True
    grid = {"c": (30.0, 1.0, 10.0, 100.0, 1000.0)}

    def check_settings(self) -> None:
        check_positive(self, "c")
        check_at_least(self, 0, "iterations")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        members, known, zero_shot = support.members, support.counts > 0, support.zero_shot(support.features)

        def objective(params: State) -> jax.Array:
            losses = row_losses(zero_shot + matmul(support.features, params["difference"].T), members, known)
            return self.c * jnp.sum(losses) + jnp.sum(jnp.square(params["difference"])) / 2

        start = {"difference": jnp.zeros_like(support.class_text_features)} if start is None else start
        return minimize(objective, start, iterations=self.iterations)

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.fit_state(new, key=key, start=pad_classes(state, old, new))

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (support.zero_shot(x) + matmul(x, state["difference"].T),)

"""Tip-Adapter: zero-shot logits plus a cache of the examples (arXiv 2111.03930, equations 3 to 6)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapter import Adapter, Support, pytree
from adapt.features import cosines, normalize, one_hot


@pytree
class TipAdapterClassifier:
    """logits = scale · x·w_c + alpha Σ_k exp(−beta (1 − x·s_k)) 1[y_k = c]."""

    features: jax.Array
    members: jax.Array
    class_text_features: jax.Array
    logit_scale: jax.Array
    alpha: jax.Array
    beta: jax.Array

    def __call__(self, features: jax.Array) -> jax.Array:
        x = normalize(features)
        affinity = jnp.exp(-self.beta * (1 - cosines(x, self.features)))
        cached = jnp.matmul(affinity, self.members, precision=jax.lax.Precision.HIGHEST)
        return self.logit_scale * cosines(x, self.class_text_features) + self.alpha * cached


@pytree
class TipAdapter(Adapter):
    """`alpha` weighs the examples against the text, `beta` says how near an example must be to count."""

    alpha: float = 1.0
    beta: float = 5.5

    needs_text = True
    grid = {"alpha": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0), "beta": (5.5, 1.0, 2.5, 10.0, 20.0, 40.0, 80.0)}

    def check(self) -> None:
        for name in ("alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} {getattr(self, name)} is negative")

    def fit_support(self, support: Support) -> TipAdapterClassifier:
        return TipAdapterClassifier(
            support.features,
            one_hot(support.labels, support.num_classes),
            support.class_text_features,
            support.logit_scale,
            jnp.float32(self.alpha),
            jnp.float32(self.beta),
        )

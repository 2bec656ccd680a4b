"""Nearest class mean (arXiv 1703.05175), with the centring of SimpleShot (arXiv 1911.04623) and a share of the text."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapter import Adapter, Support, pytree, static
from adapt.features import cosines, normalize, one_hot


@pytree
class PrototypesClassifier:
    """logits = scale · x·p_c, x the query less `center`, normalised; a class without a prototype gets −scale."""

    prototypes: jax.Array
    center: jax.Array
    logit_scale: jax.Array

    def __call__(self, features: jax.Array) -> jax.Array:
        similarity = cosines(normalize(normalize(features) - self.center), self.prototypes)
        return self.logit_scale * jnp.where(jnp.any(self.prototypes != 0, axis=1), similarity, -1.0)


@pytree
class Prototypes(Adapter):
    """p_c is the normalised mean of the class's normalised examples.

    `text_weight` mixes the class's text into it: (1 − text_weight) p_c + text_weight w_c, normalised; a class without
    examples is its text. `centering` "l2" keeps features as they are; "cl2n" subtracts the mean of the support first.
    """

    text_weight: float = 0.0
    centering: str = static("l2")

    grid = {"centering": ("l2", "cl2n"), "text_weight": (0.0, 0.1, 0.25, 0.5, 0.75)}

    def check(self) -> None:
        if self.centering not in ("l2", "cl2n"):
            raise ValueError(f"unknown centering {self.centering!r}; known: l2, cl2n")
        if not 0 <= self.text_weight <= 1:
            raise ValueError(f"text_weight {self.text_weight} is not within [0, 1]")

    def fit_support(self, support: Support) -> PrototypesClassifier:
        members = one_hot(support.labels, support.num_classes)
        present = members.sum(axis=1, keepdims=True)
        center = jnp.zeros(support.features.shape[1])
        if self.centering == "cl2n":
            center = (present * support.features).sum(axis=0) / jnp.maximum(present.sum(), 1)
        sums = jnp.matmul(members.T, normalize(support.features - center), precision=jax.lax.Precision.HIGHEST)
        prototypes = normalize(sums)
        if support.class_text_features is not None:
            text = normalize(support.class_text_features - center)
            empty = members.sum(axis=0)[:, None] == 0
            weight = jnp.where(empty, 1.0, self.text_weight)
            prototypes = normalize((1 - weight) * prototypes + weight * text)
        return PrototypesClassifier(prototypes, center, support.logit_scale)

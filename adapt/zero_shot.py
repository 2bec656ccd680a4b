"""Classification by class names alone: the nearest text."""

from __future__ import annotations

import jax

from adapt.adapter import Adapter, Support, pytree
from adapt.features import cosines, normalize


@pytree
class ZeroShotClassifier:
    """logits = scale · x·w_c."""

    class_text_features: jax.Array
    logit_scale: jax.Array

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.logit_scale * cosines(normalize(features), self.class_text_features)


@pytree
class ZeroShot(Adapter):
    """Ignores the support."""

    needs_text = True

    def fit_support(self, support: Support) -> ZeroShotClassifier:
        return ZeroShotClassifier(support.class_text_features, support.logit_scale)

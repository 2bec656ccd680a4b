"""APE: Tip-Adapter on the most discriminative feature channels (arXiv 2304.01195, sections 3.1 and 3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import affinity, class_means, class_sums, cosines, normalize, one_hot
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.support import CLASS_WEIGHTS, Support
from adapt.adapters.validation import check_at_least, check_one_of


@pytree
class Ape(Adapter):
    """logits = scale · x·w_c + alpha Σ_k exp(−beta (1 − x'·s'_k)) exp(gamma · D_k) 1[y_k = c].

    ' selects the best channels, a fraction `channels` of all, and normalises again. The score of a channel is
    −similarity_weight · S + variance_weight · V: S is the mean over pairs of different classes of the product of their
    means over text and support examples, V the variance over the class texts. D_k = KL(y_k ‖ softmax(s'_k w'ᵀ)) in
    bits gives more weight to support examples that the text of their class does not recognise. `class_weight` is
    defined as in Tip-Adapter.
    """

    name = "ape"
    alpha: float = 1.0
    beta: float = 5.5
    gamma: float = 0.1
    similarity_weight: float = 0.7
    variance_weight: float = 0.3
    channels: float = static(0.7)
    class_weight: str = static("balanced")

    needs_text = True
    term_weights = ("alpha",)
    grid = {"alpha": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0), "beta": (5.5, 1.0, 2.5, 20.0)}

    def check_settings(self) -> None:
        check_at_least(self, 0, "alpha", "beta", "gamma", "similarity_weight", "variance_weight")
        check_one_of(self, "class_weight", CLASS_WEIGHTS)
        if not 0 < self.channels <= 1:
            raise ValueError(f"channels {self.channels} is outside (0, 1]; it is the fraction of channels to keep")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        text, classes = support.class_text_features, support.num_classes
        dim = text.shape[1]
        means, counts = class_means(support.features, support.labels, classes)
        both = (text + means * counts[:, None]) / (1 + counts)[:, None]
        pairs = jnp.square(both.sum(axis=0)) - jnp.square(both).sum(axis=0)
        similarity = pairs / max(classes * (classes - 1), 1)
        variance = jnp.sum(jnp.square(text - text.mean(axis=0)), axis=0) / max(classes - 1, 1)
        score = self.variance_weight * variance - self.similarity_weight * similarity
        _, best = jax.lax.top_k(score, max(1, round(self.channels * dim)))
        refined = normalize(support.features[:, best])
        log_p = jax.nn.log_softmax(cosines(refined, normalize(text[:, best])))
        own = jnp.sum(jnp.exp(log_p) * one_hot(support.labels, classes), axis=1)
        bits = jnp.log2((1 + 1e-6) / (own + 1e-6))
        weight = jnp.where(support.labels >= 0, jnp.exp(self.gamma * bits), 0.0)
        return {"best": best, "refined": refined, "weight": weight}

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        near = affinity(normalize(x[:, state["best"]]), state["refined"], self.beta)
        weighted = near * state["weight"] * support.row_weights(self.class_weight)
        return support.zero_shot(x), class_sums(weighted, support.labels, support.num_classes)

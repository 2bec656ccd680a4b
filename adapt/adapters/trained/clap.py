"""CLAP: class vectors constrained to stay near the class texts (arXiv 2312.12730, section 4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import cosines, normalize
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.solvers import descend, mean_loss
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least, check_positive


@pytree
class Clap(Adapter):
    """logits = scale · x·unit(V_c), V trained from w on the mean CE + `constraint` · mean_c λ_c ‖V_c − w_c‖².

    λ_c is the mean zero-shot probability of class c over its support examples: the better the text, the stronger the
    constraint. The authors use text embeddings of their original length L, which is 1 here; `constraint` takes the
    place of L². A class without examples keeps its text.
    """

    name = "clap"
    constraint: float = 100.0
    learning_rate: float = 0.001
    steps: int = static(200)

    training_free = False
    needs_text = True
    grid = {"constraint": (100.0, 0.0, 1.0, 10.0, 1000.0)}

    def check_settings(self) -> None:
        check_at_least(self, 0, "constraint", "steps")
        check_positive(self, "learning_rate")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        text, x = support.class_text_features, support.features
        own = support.members * jax.nn.softmax(support.zero_shot(x))
        multipliers = own.sum(axis=0) / jnp.maximum(support.counts, 1)

        def loss(params: State) -> jax.Array:
            away = jnp.sum(jnp.square(params["vectors"] - text), axis=1)
            logits = support.logit_scale * cosines(x, normalize(params["vectors"]))
            return mean_loss(logits, support) + self.constraint * jnp.mean(multipliers * away)

        start = {"vectors": text} if start is None else start
        return descend(loss, start, learning_rate=self.learning_rate, steps=self.steps)

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        start = {"vectors": jnp.concatenate([state["vectors"], new.class_text_features[old.num_classes :]])}
        return self.fit_state(new, key=key, start=start)

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (support.logit_scale * cosines(x, normalize(state["vectors"])),)

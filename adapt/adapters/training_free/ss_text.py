"""SS-Text: class means and class texts combined by a closed form (arXiv 2506.17500; first in arXiv 2506.06076)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import cosines, matmul, normalize
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least, check_one_of, check_positive

PENALTIES = ("shots", "constant")


@pytree
class SsText(Adapter):
    """logits = scale · x·unit(V_c), V_c = w_c + scale / (n λ_c) Σ_{k: y_k = c} s_k.

    V minimises −(1/n) Σ_k scale · s_k·V_{y_k} + ½ Σ_c λ_c ‖V_c − w_c‖², where n is the number of support examples.
    `penalty` "shots" is λ_c = `constraint` / n_c, where n_c is the number of examples of class c: V_c stays nearer to
    the text where the class has few examples. This is SS-Text+ of arXiv 2506.17500, made for uneven support sets. But
    images are nearer to images than to texts, so that classes with more examples attract too many queries.
    "constant" is λ_c = `constraint` / n, as in arXiv 2506.06076. A class without examples keeps its text.

    The authors have `constraint` 1, and 2 in arXiv 2603.02959, for tasks of a few classes. The weight of the examples
    falls with the number of classes: with 100 classes these values are too small, and the default is larger. `repel`
    subtracts `repel` · unit(2 V_c − mean of all V) from each V_c, also from those without examples; the code of
    arXiv 2506.17500 does so with `repel` 1, which with many classes leaves almost nothing of V_c.
    """

    name = "ss_text"
    constraint: float = 20.0
    repel: float = 0.0
    penalty: str = static("shots")

    needs_text = True
    grid = {"constraint": (20.0, 1.0, 2.0, 5.0, 10.0, 50.0, 200.0, 1000.0)}

    def check_settings(self) -> None:
        check_positive(self, "constraint")
        check_at_least(self, 0, "repel")
        check_one_of(self, "penalty", PENALTIES)

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        counts = support.counts
        shares = counts / jnp.maximum(counts.sum(), 1) if self.penalty == "shots" else jnp.ones_like(counts)
        weights = support.logit_scale / self.constraint * shares
        vectors = support.class_text_features + weights[:, None] * matmul(support.members.T, support.features)
        away = normalize(2 * vectors - jnp.mean(vectors, axis=0))
        return {"vectors": normalize(vectors - self.repel * away)}

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (support.logit_scale * cosines(x, state["vectors"]),)

"""SS-Text-U: SS-Text with unlabelled images, assigned to classes by optimal transport (arXiv 2603.02959)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.ops import cosines, matmul, normalize
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.support import Support
from adapt.adapters.transductive.queries import Queries, TransductiveAdapter, candidates_only
from adapt.adapters.validation import check_at_least, check_positive


@pytree
class SsTextU(TransductiveAdapter):
    """logits = scale · x·unit(V_c), V_c = w_c + scale n_c / (n κ) Σ_{k: y_k = c} s_k + scale / |Q| Σ_i z_ic x_i.

    n is the number of support examples, n_c those of class c, and κ the `constraint`: without the last term, V is that
    of `ss_text`. V starts as the texts w. `iterations` times, the assignments z of the queries are computed from V by
    Sinkhorn's algorithm, and then V from z. The algorithm starts from exp(scale · x_i·unit(V_c)). `sinkhorn` times, it
    rescales first the classes and then the queries, so that class c gets the share r_c of all queries and each query
    sums to 1. r is the class frequency in the support set; a class without examples has that of the rarest class
    divided by `absent`. So the method assumes that classes are as frequent among the queries as in the support set.

    The authors have `constraint` 2, 3 iterations, 10 of Sinkhorn, and `absent` 4. They fit on unlabelled images and
    classify other ones; here both are the queries.
    """

    name = "ss_text_u"
    constraint: float = 2.0
    absent: float = 4.0
    iterations: int = static(3)
    sinkhorn: int = static(10)

    needs_text = True
    grid = {"constraint": (2.0, 1.0, 5.0, 10.0, 20.0, 50.0, 200.0)}

    def check_settings(self) -> None:
        check_positive(self, "constraint", "absent")
        check_at_least(self, 1, "iterations")
        check_at_least(self, 0, "sinkhorn")

    def query_logits(self, support: Support, queries: Queries) -> jax.Array:
        support = candidates_only(support, queries)
        counts, x, scale = support.counts, queries.features, support.logit_scale
        weights = scale / self.constraint * counts / jnp.maximum(counts.sum(), 1)
        fixed = support.class_text_features + matmul((weights * support.members).T, support.features)
        frequency = self._class_frequency(counts, queries.candidates)

        def step(_: int, vectors: jax.Array) -> jax.Array:
            logits = scale * cosines(x, normalize(vectors))
            return fixed + scale / queries.count * matmul(self._assign(logits, frequency, queries).T, x)

        vectors = jax.lax.fori_loop(0, self.iterations, step, support.class_text_features)
        return jnp.where(queries.candidates, scale * cosines(x, normalize(vectors)), -jnp.inf)

    def _class_frequency(self, counts: jax.Array, candidates: jax.Array) -> jax.Array:
        """Return the shares r of the classes, `[classes]`; equal ones if no class has examples."""
        rarest = jnp.min(jnp.where(counts > 0, counts, jnp.inf))
        absent = jnp.where(jnp.isfinite(rarest), rarest / self.absent, 1.0)
        counts = jnp.where(candidates, jnp.where(counts > 0, counts, absent), 0.0)
        return counts / jnp.sum(counts)

    def _assign(self, logits: jax.Array, frequency: jax.Array, queries: Queries) -> jax.Array:
        """Return the assignments z `[queries, classes]`; rows that are not present are zero.

        The factors of classes and queries are computed as logarithms, as exp(logits) overflows at a scale of 100.
        """
        logits = jnp.where(queries.present[:, None] & queries.candidates, logits, -jnp.inf)

        def rescale(_: int, class_factors: jax.Array) -> jax.Array:
            query_factors = -_finite(jax.nn.logsumexp(logits + class_factors, axis=1, keepdims=True))
            return scale_classes(query_factors)

        def scale_classes(query_factors: jax.Array) -> jax.Array:
            return jnp.log(frequency) - _finite(jax.nn.logsumexp(logits + query_factors, axis=0))

        class_factors = jnp.zeros(len(frequency))
        if self.sinkhorn:
            class_factors = jax.lax.fori_loop(1, self.sinkhorn, rescale, scale_classes(jnp.zeros((len(logits), 1))))
        return jnp.where(queries.present[:, None], jax.nn.softmax(logits + class_factors, axis=1), 0.0)


def _finite(values: jax.Array) -> jax.Array:
    """Return `values` with 0 for −∞, the logarithm of a sum without terms."""
    return jnp.where(jnp.isfinite(values), values, 0.0)

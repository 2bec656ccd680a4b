"""Votes of the k nearest examples."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import cosines, in_blocks
from adapt.adapters.support import Support, pytree, static
from adapt.adapters.validation import check_at_least, check_one_of, check_positive

# Weight of a neighbour with cosine s at the given rank (0 is the nearest).
VOTES: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "softmax": lambda s, rank, temperature: jnp.exp((s - s[:, :1]) / temperature),
    "plurality": lambda s, rank, temperature: jnp.ones_like(s),
    "distance": lambda s, rank, temperature: jnp.exp(s - 1),
    "rank": lambda s, rank, temperature: jnp.broadcast_to(1 / (2 + rank), s.shape),
}
_TIE = 2.0**-22  # of the votes, a rank: among classes with equal votes the one with the nearest example wins


@pytree
class Knn(Adapter):
    """logits_c = Σ of the votes of those of the `k` nearest examples whose class is c; `votes` names their weight.

    `temperature` serves "softmax" votes, exp((s − s_nearest) / temperature). A class without examples gets no vote,
    whatever its text.
    """

    name = "knn"
    temperature: float = 0.07
    k: int = static(5)
    votes: str = static("softmax")

    text_logits = False
    grid = {"k": (5, 1, 20), "temperature": (0.07, 0.02)}

    def check(self) -> None:
        check_one_of(self, "votes", VOTES)
        check_at_least(self, 1, "k")
        check_positive(self, "temperature")

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (self._votes(support, cosines(x, support.features)),)

    def left_out(self, support: Support, *, key: jax.Array) -> Terms:
        def block(x: jax.Array, row: jax.Array) -> jax.Array:
            own = row[:, None] == jnp.arange(len(support.labels))
            return self._votes(support, jnp.where(own, -jnp.inf, cosines(x, support.features)))

        rows = jnp.arange(len(support.labels))
        columns = max(len(rows), self.k * support.num_classes)
        return (in_blocks(block, columns, support.features, rows),)

    def _votes(self, support: Support, similarity: jax.Array) -> jax.Array:
        similarity = jnp.where(support.labels >= 0, similarity, -jnp.inf)
        nearest, index = jax.lax.top_k(similarity, min(int(self.k), similarity.shape[1]))
        there = jnp.isfinite(nearest)
        nearest = jnp.where(there, nearest, -1.0)
        rank = jnp.arange(nearest.shape[1])
        weight = there * VOTES[self.votes](nearest, rank, self.temperature)
        row, label = jnp.arange(len(nearest))[:, None], support.labels[index]
        none = jnp.zeros((len(nearest), support.num_classes))
        votes = none.at[row, label].add(weight)
        lead = none.at[row, label].max(there * (nearest.shape[1] - rank))
        return votes * (1 + _TIE * lead)

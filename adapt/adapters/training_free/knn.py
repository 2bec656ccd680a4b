"""k-nearest-neighbour classification."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import cosines, in_blocks, top_k
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least, check_one_of, check_positive

# Vote of a neighbour with cosine s at a rank, counted from 0 for the nearest.
VOTES: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "softmax": lambda s, rank, temperature: jnp.exp((s - s[:, :1]) / temperature),
    "plurality": lambda s, rank, temperature: jnp.ones_like(s),
    "distance": lambda s, rank, temperature: jnp.exp(s - 1),
    "rank": lambda s, rank, temperature: jnp.broadcast_to(1 / (2 + rank), s.shape),
}
_TIE = 2.0**-22  # relative bonus per rank, so that of classes with equal votes the one with the nearest example wins


@pytree
class Knn(Adapter):
    """logits_c = sum of the votes of the examples of class c among the `k` nearest support examples.

    `votes` selects the vote of a neighbour with cosine s: "softmax" exp((s − s_nearest) / `temperature`), "plurality"
    1, "distance" exp(s − 1), "rank" 1 / (2 + rank). Class texts are not used, so a class without examples gets no vote.
    """

    name = "knn"
    temperature: float = 0.07
    k: int = static(5)
    votes: str = static("softmax")

    text_logits = False
    grid = {"k": (5, 1, 20), "temperature": (0.07, 0.02)}

    def check_settings(self) -> None:
        check_one_of(self, "votes", VOTES)
        check_at_least(self, 1, "k")
        check_positive(self, "temperature")

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (self._votes(support, cosines(x, support.features)),)

    def leave_one_out(self, support: Support, *, key: jax.Array) -> Terms:
        def block(x: jax.Array, row: jax.Array) -> jax.Array:
            own = row[:, None] == jnp.arange(len(support.labels))
            return self._votes(support, jnp.where(own, -jnp.inf, cosines(x, support.features)))

        rows = jnp.arange(len(support.labels))
        columns = max(len(rows), self.k * support.num_classes)
        return (in_blocks(block, columns, support.features, rows),)

    def _votes(self, support: Support, similarity: jax.Array) -> jax.Array:
        similarity = jnp.where(support.labels >= 0, similarity, -jnp.inf)
        nearest, index = top_k(similarity, min(int(self.k), similarity.shape[1]))
        found = jnp.isfinite(nearest)
        nearest = jnp.where(found, nearest, -1.0)
        rank = jnp.arange(nearest.shape[1])
        weight = found * VOTES[self.votes](nearest, rank, self.temperature)
        row, label = jnp.arange(len(nearest))[:, None], support.labels[index]
        zeros = jnp.zeros((len(nearest), support.num_classes))
        votes = zeros.at[row, label].add(weight)
        lead = zeros.at[row, label].max(found * (nearest.shape[1] - rank))
        return votes * (1 + _TIE * lead)

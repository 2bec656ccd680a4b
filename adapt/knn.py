"""Votes of the k nearest examples."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from adapt.adapter import Adapter, Support, pytree, static
from adapt.features import cosines, normalize, one_hot

# Weight of a neighbour with cosine s at the given rank (0 is the nearest).
VOTES: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "softmax": lambda s, rank, temperature: jnp.exp((s - 1) / temperature),
    "plurality": lambda s, rank, temperature: jnp.ones_like(s),
    "distance": lambda s, rank, temperature: jnp.exp(s - 1),
    "rank": lambda s, rank, temperature: jnp.broadcast_to(1 / (2 + rank), s.shape),
}
_TIE = 2.0**-22  # of the votes, a rank: among classes with equal votes the one with the nearest example wins


@pytree
class KnnClassifier:
    """logits_c = Σ of the votes of those of the k nearest examples whose class is c."""

    features: jax.Array
    members: jax.Array
    temperature: jax.Array
    k: int = static(5)
    votes: str = static("softmax")

    def __call__(self, features: jax.Array) -> jax.Array:
        present = self.members.sum(axis=1) > 0
        similarity = jnp.where(present, cosines(normalize(features), self.features), -jnp.inf)
        nearest, index = jax.lax.top_k(similarity, min(self.k, len(self.features)))
        there = jnp.isfinite(nearest)
        nearest = jnp.where(there, nearest, -1.0)
        weight = there * VOTES[self.votes](nearest, jnp.arange(nearest.shape[1]), self.temperature)
        members = self.members[index]
        votes = jnp.einsum("qk,qkc->qc", weight, members, precision=jax.lax.Precision.HIGHEST)
        lead = jnp.max(members * jnp.arange(nearest.shape[1], 0, -1)[:, None], axis=1)
        return votes * (1 + _TIE * lead)


@pytree
class Knn(Adapter):
    """Each of the `k` nearest examples votes for its class; `votes` names the weight of a vote.

    `temperature` serves "softmax" votes, exp((s − 1) / temperature). A class without examples gets no vote.
    """

    temperature: float = 0.07
    k: int = static(5)
    votes: str = static("softmax")

    grid = {"k": (5, 1, 3, 10, 20), "temperature": (0.07, 0.02, 0.2)}

    def check(self) -> None:
        if self.votes not in VOTES:
            raise ValueError(f"unknown votes {self.votes!r}; known: {', '.join(VOTES)}")
        if self.k < 1 or self.k != int(self.k):
            raise ValueError(f"k {self.k} is not a positive whole number")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} is not positive")

    def fit_support(self, support: Support) -> KnnClassifier:
        members = one_hot(support.labels, support.num_classes)
        return KnnClassifier(support.features, members, jnp.float32(self.temperature), k=int(self.k), votes=self.votes)

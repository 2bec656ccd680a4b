"""TransCLIP: a Gaussian mixture of all queries, held near the text predictions (arXiv 2406.01837)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adapt.adapters.ops import cosines, matmul, normalize
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.support import Support
from adapt.adapters.transductive.neighbors import nearest_queries, neighbor_sums
from adapt.adapters.transductive.queries import Queries, TransductiveAdapter, candidates_only
from adapt.adapters.validation import check_at_least, check_one_of, check_positive

VARIANTS = ("few_shot", "zero_shot")
_ASSIGNMENT_STEPS = 5  # updates of z per update of the mixture
_CONFIDENT = 8  # queries from which the mean of a class without examples starts
_MIN_VARIANCE = 1e-6  # of a dimension; without it, identical queries have variance 0


class _Mixture(NamedTuple):
    """Gaussians with `means` `[classes, dim]` and a shared diagonal covariance, `variance` `[dim]`."""

    means: jax.Array
    variance: jax.Array


@pytree
class TransClip(TransductiveAdapter):
    """logits_i = log z_i, up to a constant per query, where the assignments z `[queries, classes]` minimise

        −1/(τ|Q|) Σ_i z_i·log p_i − γ/|S| Σ_k log p_{k y_k} − (1/m) Σ_ij w_ij z_i·z_j + Σ_i KL_λ(z_i ‖ ŷ_i)

    with KL_λ(z ‖ ŷ) = z·log z − λ z·log ŷ. ŷ are the zero-shot probabilities, and p_ic is the density of query i in a
    Gaussian with mean μ_c and a diagonal covariance that all classes share. w_ij = max(0, x_i·x_j) where j is one of
    the m `neighbors` nearest queries of i, else 0; each support example is linked to its nearest queries likewise, and
    its z is its label. Blocks are updated in turn, in closed form: z five times, then μ and the covariance,
    `iterations` times, and z five times at the end:

        z_i ∝ ŷ_i^λ exp(log p_i / τ + Σ_j (w_ij + w_ji) z_j / 2m)

    `temperature` is τ and `gamma` γ. λ is `text_weight` / 2 with support examples and `text_weight` without, as in the
    authors' code. `variant` "zero_shot" ignores the support examples. The means start as those of the support
    examples, and for a class without from the eight queries with the largest ŷ; they have length 1 in all steps.
    """

    name = "transclip"
    gamma: float = 0.002
    text_weight: float = 1.0
    temperature: float = 50.0
    neighbors: int = static(3)
    iterations: int = static(10)
    variant: str = static("few_shot")

    needs_text = True
    grid = {"gamma": (0.002, 0.01, 0.02, 0.2)}

    def check_settings(self) -> None:
        check_at_least(self, 0, "gamma", "text_weight", "neighbors", "iterations")
        check_positive(self, "temperature")
        check_one_of(self, "variant", VARIANTS)

    def query_logits(self, support: Support, queries: Queries) -> jax.Array:
        support = candidates_only(support, queries)
        if self.variant == "zero_shot":
            support = support.without(jnp.ones(len(support.labels), bool))
        labelled = support.labels >= 0
        share = jnp.where(jnp.any(labelled), 0.5, 1.0)
        text = self.text_weight * share * support.logit_scale * support.class_text_features
        x = queries.features
        if self.neighbors:
            sums = neighbor_sums(nearest_queries(x, queries.present, queries, k=self.neighbors, own=True))
            labels = nearest_queries(support.features, labelled, queries, k=self.neighbors, own=False)

        def assign(mixture: _Mixture, z: jax.Array) -> jax.Array:
            """Return the logits of z after its updates for a fixed mixture."""
            scaled = mixture.means / (self.temperature * mixture.variance)
            offset = jnp.sum(mixture.means * scaled, axis=1) / 2
            fixed = jnp.where(queries.candidates, cosines(x, text + scaled) - offset, -jnp.inf)
            if not self.neighbors:
                return fixed
            fixed = fixed.at[labels.index, support.labels[:, None]].add(labels.weight / (2 * self.neighbors))

            def update(_: int, logits: jax.Array) -> jax.Array:
                return fixed + sums(self._assignments(logits, queries)) / (2 * self.neighbors)

            first = fixed + sums(z) / (2 * self.neighbors)
            return jax.lax.fori_loop(1, _ASSIGNMENT_STEPS, update, first)

        def step(_: int, carry: tuple[_Mixture, jax.Array]) -> tuple[_Mixture, jax.Array]:
            mixture, z = carry
            z = self._assignments(assign(mixture, z), queries)
            return self._update_mixture(mixture, z, support, queries), z

        zero_shot = support.zero_shot(x)
        z = self._assignments(jnp.where(queries.candidates, zero_shot, -jnp.inf), queries)
        start = _Mixture(_first_means(zero_shot, support, queries), jnp.full(x.shape[1], 1 / x.shape[1]))
        mixture, z = jax.lax.fori_loop(0, self.iterations, step, (start, z))
        return assign(mixture, z)

    def _update_mixture(self, mixture: _Mixture, z: jax.Array, support: Support, queries: Queries) -> _Mixture:
        """Return the means and the variance that are best for the assignments `z`."""
        members = support.members
        weight = self.gamma * self.temperature / jnp.maximum(members.sum(), 1)  # of a support example
        center = jnp.sum(queries.features * queries.present[:, None], axis=0) / queries.count
        x, s = queries.features - center, support.features - center  # sums of squares would lose digits
        mass = z.sum(axis=0) / queries.count + weight * members.sum(axis=0)
        sums = matmul(z.T, x) / queries.count + weight * matmul(members.T, s)
        totals = sums + mass[:, None] * center
        means = jnp.where(mass[:, None] > 0, normalize(totals), mixture.means)
        squares = jnp.sum(jnp.square(x) * queries.present[:, None], axis=0) / queries.count
        squares += weight * jnp.sum(jnp.square(s) * members.sum(axis=1)[:, None], axis=0)
        moved = means - center
        spread = squares + jnp.sum(moved * (mass[:, None] * moved - 2 * sums), axis=0)
        return _Mixture(means, jnp.maximum(spread / jnp.sum(mass), _MIN_VARIANCE))

    def _assignments(self, logits: jax.Array, queries: Queries) -> jax.Array:
        """Return softmax(logits), `[queries, classes]`, with rows of zeros for queries that are not present."""
        return jax.nn.softmax(logits, axis=1) * queries.present[:, None]


def _first_means(zero_shot: jax.Array, support: Support, queries: Queries) -> jax.Array:
    """Return the means with which the mixture starts, `[classes, dim]`, of length 1."""
    confidence = jax.nn.log_softmax(jnp.where(queries.candidates, zero_shot, -jnp.inf), axis=1)
    confidence = jnp.where(queries.present[:, None], confidence, -jnp.inf)
    best, rows = jax.lax.top_k(confidence.T, min(_CONFIDENT, len(zero_shot)))
    weights = jnp.where(jnp.isfinite(best), jnp.exp(best - jnp.where(jnp.isfinite(best[:, :1]), best[:, :1], 0)), 0)
    guessed = jnp.einsum("cr,crd->cd", weights, queries.features[rows], precision=jax.lax.Precision.HIGHEST)
    return normalize(jnp.where(support.counts[:, None] > 0, matmul(support.members.T, support.features), guessed))

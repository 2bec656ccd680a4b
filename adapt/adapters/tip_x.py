"""Tip-X of SuS-X: Tip-Adapter, and examples that read like the query across the class texts (arXiv 2211.16198)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import affinity, class_sums, cosines, in_blocks, matmul
from adapt.adapters.support import CLASS_WEIGHTS, Support, pytree, static
from adapt.adapters.validation import check_at_least, check_one_of, check_positive


@pytree
class TipX(Adapter):
    """logits = scale · x·w_c + alpha Σ_k exp(−beta (1 − x·s_k)) 1[y_k = c] + gamma Σ_k A_k 1[y_k = c].

    A_k = −KL(p(x) ‖ p(s_k)) with p(z) = softmax(z wᵀ / temperature), after the divergences are mapped linearly so that
    their range between pairs of different examples becomes the range of the cosines between them. The authors take both
    ranges from the queries of a batch; here a prediction does not depend on what else is asked. Where cosines between
    images are positive A is negative: gamma takes from classes with examples what it does not take from those without.
    `class_weight` is as in Tip-Adapter.
    """

    name = "tip_x"
    alpha: float = 1.0
    beta: float = 5.5
    gamma: float = 1.0
    temperature: float = 0.5
    class_weight: str = static("balanced")

    needs_text = True
    weights = ("alpha", "gamma")
    grid = {
        "alpha": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
        "gamma": (1.0, 0.0, 3.0, 10.0),
        "beta": (5.5, 1.0, 2.5, 20.0),
    }

    def check(self) -> None:
        check_at_least(self, 0, "alpha", "beta", "gamma")
        check_positive(self, "temperature")
        check_one_of(self, "class_weight", CLASS_WEIGHTS)

    def learn(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        present = support.labels >= 0
        log_p = self._log_probabilities(support, support.features)
        # Divergences are small differences; taken about the mean of the examples they do not cancel.
        reference = jnp.sum(present[:, None] * log_p, axis=0) / jnp.maximum(present.sum(), 1)
        log_p = log_p - reference

        def block(x: jax.Array, own: jax.Array, row: jax.Array) -> tuple[jax.Array, ...]:
            pairs = (support.labels[row] >= 0)[:, None] & present & (row[:, None] != jnp.arange(len(present)))
            return *_range(_divergences(own, log_p, reference), pairs), *_range(cosines(x, support.features), pairs)

        ranges = in_blocks(block, len(present), support.features, log_p, jnp.arange(len(present)))
        low, high, least, most = (extreme(v) for extreme, v in zip((jnp.min, jnp.max) * 2, ranges, strict=True))
        return {"log_p": log_p, "reference": reference, "mapping": jnp.stack(_mapping((low, high), (least, most)))}

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        near = affinity(x, support.features, self.beta)
        log_p = self._log_probabilities(support, x) - state["reference"]
        slope, offset = state["mapping"]
        alike = -(slope * _divergences(log_p, state["log_p"], state["reference"]) + offset)
        weights = support.row_weights(self.class_weight)
        cached, likeness = (
            class_sums(values * weights, support.labels, support.num_classes) for values in (near, alike)
        )
        return support.zero_shot(x), cached, likeness

    def left_out(self, support: Support, *, key: jax.Array) -> Terms:
        state = self.learn(support, key=key)
        present = support.labels >= 0
        others = ~jnp.eye(len(present), dtype=bool)
        cosine = cosines(support.features, support.features)
        divergence = _divergences(state["log_p"], state["log_p"], state["reference"])
        pairs = present[:, None] & present & others
        low, high = _range_left_out(divergence, pairs), _range_left_out(cosine, pairs)
        slope, offset = _mapping(low, high)
        mapped = slope[:, None] * divergence + offset[:, None]
        near = jnp.exp(self.beta * (cosine - 1))
        weights = support.left_out_weights(self.class_weight)
        cached, likeness = (
            weights * class_sums(jnp.where(others, values, 0.0), support.labels, support.num_classes)
            for values in (near, -mapped)
        )
        return support.zero_shot(support.features), cached, likeness

    def _log_probabilities(self, support: Support, x: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(cosines(x, support.class_text_features) / self.temperature)


def _divergences(log_p: jax.Array, log_q: jax.Array, reference: jax.Array) -> jax.Array:
    """Returns KL(p ‖ q) `[n, m]` of log probabilities, both less `reference`."""
    p = jnp.exp(log_p + reference)
    return jnp.sum(p * log_p, axis=1, keepdims=True) - matmul(p, log_q.T)


def _range(values: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the least and the largest valid value of each row; infinities where there are none."""
    return jnp.min(jnp.where(valid, values, jnp.inf), axis=1), jnp.max(jnp.where(valid, values, -jnp.inf), axis=1)


def _range_left_out(values: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns for each i the range, `[n]` and `[n]`, of the valid values `[n, n]` outside row i and column i.

    It differs from the whole range only where i is in the pair that holds the extreme.
    """
    rows = jnp.arange(len(values))

    def least(values: jax.Array) -> jax.Array:
        values = jnp.where(valid, values, jnp.inf)
        pair = jnp.unravel_index(jnp.argmin(values), values.shape)

        def without(i: jax.Array) -> jax.Array:
            return jnp.min(jnp.where((rows == i)[:, None] | (rows == i), jnp.inf, values))

        found = jnp.where(rows == pair[0], without(pair[0]), jnp.min(values))
        return jnp.where(rows == pair[1], without(pair[1]), found)

    return least(values), -least(-values)


def _mapping(source: tuple[jax.Array, jax.Array], target: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns slope and offset that map the source range onto the target range; zeros where there are no pairs."""
    width = source[1] - source[0]
    some, wide = jnp.isfinite(width), jnp.isfinite(width) & (width > 0)
    slope = jnp.where(wide, (target[1] - target[0]) / jnp.where(wide, width, 1.0), 0.0)
    start = jnp.where(some, source[0], 0.0)
    return slope, jnp.where(some, target[0], 0.0) - slope * start

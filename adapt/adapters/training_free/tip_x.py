"""Tip-X of SuS-X: Tip-Adapter plus similarity of the zero-shot distributions (arXiv 2211.16198)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import affinity, class_sums, cosines, in_blocks, matmul
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.support import CLASS_WEIGHTS, Support
from adapt.adapters.validation import check_at_least, check_one_of, check_positive


@pytree
class TipX(Adapter):
    """logits = scale · x·w_c + alpha Σ_k exp(−beta (1 − x·s_k)) 1[y_k = c] + gamma Σ_k A_k 1[y_k = c].

    A_k = −KL(p(x) ‖ p(s_k)) with p(z) = softmax(z wᵀ / temperature). The divergences are mapped linearly so that their
    range over pairs of different support examples becomes the range of the cosines of these pairs. The authors take
    both ranges from the queries of a batch; here a prediction does not depend on the other queries. Where the cosines
    between images are positive, A is negative, so `gamma` lowers classes with examples relative to those without.
    `class_weight` is defined as in Tip-Adapter.
    """

    name = "tip_x"
    alpha: float = 1.0
    beta: float = 5.5
    gamma: float = 1.0
    temperature: float = 0.5
    class_weight: str = static("balanced")

    needs_text = True
    term_weights = ("alpha", "gamma")
    grid = {
        "alpha": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
        "gamma": (1.0, 0.0, 3.0, 10.0),
        "beta": (5.5, 1.0, 2.5, 20.0),
    }

    def check_settings(self) -> None:
        check_at_least(self, 0, "alpha", "beta", "gamma")
        check_positive(self, "temperature")
        check_one_of(self, "class_weight", CLASS_WEIGHTS)

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        present = support.labels >= 0
        log_p = self._log_probabilities(support, support.features)
        # Divergences are small differences; relative to the mean of the support examples they do not cancel.
        reference = jnp.sum(present[:, None] * log_p, axis=0) / jnp.maximum(present.sum(), 1)
        log_p = log_p - reference

        def row_ranges(x: jax.Array, own: jax.Array, row: jax.Array) -> tuple[_Range, _Range]:
            pairs = (support.labels[row] >= 0)[:, None] & present & (row[:, None] != jnp.arange(len(present)))
            return _row_range(_divergences(own, log_p, reference), pairs), _row_range(
                cosines(x, support.features), pairs
            )

        divergence, cosine = in_blocks(row_ranges, len(present), support.features, log_p, jnp.arange(len(present)))
        mapping = _linear_map(_total_range(divergence), _total_range(cosine))
        return {"log_p": log_p, "reference": reference, "mapping": jnp.stack(mapping)}

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        near = affinity(x, support.features, self.beta)
        log_p = self._log_probabilities(support, x) - state["reference"]
        slope, offset = state["mapping"]
        alike = -(slope * _divergences(log_p, state["log_p"], state["reference"]) + offset)
        weights = support.row_weights(self.class_weight)
        cached, likeness = (
            class_sums(values * weights, support.labels, support.num_classes) for values in (near, alike)
        )
        return support.zero_shot(x), cached, likeness

    def leave_one_out(self, support: Support, *, key: jax.Array) -> Terms:
        state = self.fit_state(support, key=key)
        present = support.labels >= 0
        others = ~jnp.eye(len(present), dtype=bool)
        cosine = cosines(support.features, support.features)
        divergence = _divergences(state["log_p"], state["log_p"], state["reference"])
        pairs = present[:, None] & present & others
        slope, offset = _linear_map(_leave_one_out_range(divergence, pairs), _leave_one_out_range(cosine, pairs))
        mapped = slope[:, None] * divergence + offset[:, None]
        near = jnp.exp(self.beta * (cosine - 1))
        weights = support.leave_one_out_weights(self.class_weight)
        cached, likeness = (
            weights * class_sums(jnp.where(others, values, 0.0), support.labels, support.num_classes)
            for values in (near, -mapped)
        )
        return support.zero_shot(support.features), cached, likeness

    def _log_probabilities(self, support: Support, x: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(cosines(x, support.class_text_features) / self.temperature)


def _divergences(log_p: jax.Array, log_q: jax.Array, reference: jax.Array) -> jax.Array:
    """Return KL(p ‖ q), `[n, m]`, from log-probabilities minus `reference`."""
    p = jnp.exp(log_p + reference)
    return jnp.sum(p * log_p, axis=1, keepdims=True) - matmul(p, log_q.T)


class _Range(NamedTuple):
    """The smallest and the largest of some values; infinite if there are none."""

    low: jax.Array
    high: jax.Array


def _row_range(values: jax.Array, valid: jax.Array) -> _Range:
    """Return the range of the valid values of each row of `values` `[rows, n]`, `[rows]`."""
    return _Range(
        jnp.min(jnp.where(valid, values, jnp.inf), axis=1), jnp.max(jnp.where(valid, values, -jnp.inf), axis=1)
    )


def _total_range(rows: _Range) -> _Range:
    return _Range(jnp.min(rows.low), jnp.max(rows.high))


def _leave_one_out_range(values: jax.Array, valid: jax.Array) -> _Range:
    """Return for each i the range of the valid `values` `[n, n]` outside row i and column i, `[n]`."""
    return _Range(_leave_one_out_minimum(values, valid), -_leave_one_out_minimum(-values, valid))


def _leave_one_out_minimum(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Return for each i the smallest valid value outside row i and column i, `[n]`.

    It differs from the smallest of all only if i belongs to the pair with the smallest value.
    """
    rows = jnp.arange(len(values))
    values = jnp.where(valid, values, jnp.inf)
    pair = jnp.unravel_index(jnp.argmin(values), values.shape)

    def without(i: jax.Array) -> jax.Array:
        return jnp.min(jnp.where((rows == i)[:, None] | (rows == i), jnp.inf, values))

    found = jnp.where(rows == pair[0], without(pair[0]), jnp.min(values))
    return jnp.where(rows == pair[1], without(pair[1]), found)


class _LinearMap(NamedTuple):
    """v ↦ slope · v + offset."""

    slope: jax.Array
    offset: jax.Array


def _linear_map(source: _Range, target: _Range) -> _LinearMap:
    """Return the linear map of `source` onto `target`; zeros for empty ranges."""
    width = source.high - source.low
    exists, wide = jnp.isfinite(width), jnp.isfinite(width) & (width > 0)
    slope = jnp.where(wide, (target.high - target.low) / jnp.where(wide, width, 1.0), 0.0)
    start = jnp.where(exists, source.low, 0.0)
    return _LinearMap(slope, jnp.where(exists, target.low, 0.0) - slope * start)

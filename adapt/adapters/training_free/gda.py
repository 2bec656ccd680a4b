"""Gaussian discriminant analysis combined with the class texts (arXiv 2402.04087, equations 4 to 8)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import class_means, matmul
from adapt.adapters.pytrees import pytree
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least

_ROUNDING = 1e-6  # relative size below which a difference of traces counts as 0
_MIN_SPREAD = 1e-9  # trace of the scatter per support example; a smaller one is rounding error


@pytree
class Gda(Adapter):
    """logits = scale · x·w_c + alpha (x·W_c + b_c); the second term models classes as Gaussians of one covariance.

    Σ⁻¹ = dim · ((n − 1) S + tr(S) I)⁻¹, where S is the covariance of the support examples minus their class means.
    W_c = Σ⁻¹(μ_c − m) and b_c = −½ (μ_c + m)·W_c, where m is the mean of the class means. These are the authors'
    Σ⁻¹μ_c and −½ μ_cᵀΣ⁻¹μ_c minus the part that all classes share, so that a class without examples keeps its text.
    If no class has two different examples, S is the covariance around the mean of all examples. Without class texts,
    the logits are the second term.
    """

    name = "gda"
    alpha: float = 0.03

    select_by_folds = True
    term_weights = ("alpha",)
    grid = {"alpha": (0.03, 0.001, 0.003, 0.01, 0.1, 0.3, 1.0, 10.0, 100.0, 1000.0)}

    def check_settings(self) -> None:
        check_at_least(self, 0, "alpha")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        means, counts = class_means(support.features, support.labels, support.num_classes)
        residuals = jnp.where(support.labels[:, None] >= 0, support.features - means[support.labels], 0.0)
        return _solve(means, counts, matmul(residuals.T, residuals))

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        """Add the new examples to the means and the scatter (Chan, Golub and LeVeque 1979), and solve again."""
        rows = len(old.labels)
        features, labels = new.features[rows:], new.labels[rows:]
        new_means, new_counts = class_means(features, labels, new.num_classes)
        residuals = jnp.where(labels[:, None] >= 0, features - new_means[labels], 0.0)
        added = new.num_classes - old.num_classes
        means, counts = jnp.pad(state["means"], [(0, added), (0, 0)]), jnp.pad(state["counts"], (0, added))
        total = jnp.maximum(counts + new_counts, 1)
        between = (new_means - means) * jnp.sqrt(counts * new_counts / total)[:, None]
        means = means + (new_means - means) * (new_counts / total)[:, None]
        scatter = state["scatter"] + matmul(residuals.T, residuals) + matmul(between.T, between)
        return _solve(means, counts + new_counts, scatter)

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        gaussian = matmul(x - state["center"], state["weights"].T) + state["bias"]
        return support.zero_shot(x), self._masked(support, gaussian, state["counts"] > 0)

    def leave_one_out(self, support: Support, *, key: jax.Array) -> Terms:
        """Return the terms of each row from the fit without it, by a rank-one downdate of the scatter.

        Without row x of class y, the scatter loses n_y/(n_y − 1) r rᵀ with r = x − μ_y.
        """
        rows = _rows_left_out(support)
        within = _within_classes(support, rows)
        # A row without which no class has two different examples uses the scatter around the mean of all rows.
        gaussian = jax.lax.cond(
            jnp.all(within.has_spread | (support.labels < 0)),
            lambda: within.logits,
            lambda: jnp.where(within.has_spread[:, None], within.logits, _around_all(support, rows)),
        )
        only = (support.members > 0) & (rows.remaining == 0)[:, None]  # the single example of its class
        known = (support.counts > 0) & ~only
        gaussian = self._masked(support, jnp.where(known, gaussian, 0.0), known)
        return support.zero_shot(support.features), gaussian

    def _masked(self, support: Support, gaussian: jax.Array, known: jax.Array) -> jax.Array:
        """Give a class without examples and without text the logit of the least likely class."""
        if support.class_text_features is not None:
            return gaussian
        return jnp.where(known, gaussian, jnp.min(gaussian, axis=1, keepdims=True))


class _RowsLeftOut(NamedTuple):
    """For each support row, the class means without it; all positions are relative to the mean of the class means.

    x: the rows, `[n, dim]`.
    class_means: `[classes, dim]`, with all rows.
    residuals: the rows minus the mean of their class, `[n, dim]`; zeros for padding.
    remaining: the number of other rows of the row's class, `[n]`.
    own_means: the mean of the row's class without the row, `[n, dim]`.
    mean_shifts: the mean of the class means without the row, `[n, dim]`.
    """

    x: jax.Array
    class_means: jax.Array
    residuals: jax.Array
    remaining: jax.Array
    own_means: jax.Array
    mean_shifts: jax.Array


def _rows_left_out(support: Support) -> _RowsLeftOut:
    labels = support.labels
    means, counts = class_means(support.features, labels, support.num_classes)
    center = _center(means, counts)
    x, mu = support.features - center, jnp.where(counts[:, None] > 0, means - center, 0.0)
    residuals = jnp.where((labels >= 0)[:, None], x - mu[labels], 0.0)
    remaining = counts[labels] - 1
    own = jnp.where(remaining[:, None] > 0, mu[labels] - residuals / jnp.maximum(remaining, 1)[:, None], 0.0)
    classes = jnp.sum(counts > 0) - (remaining == 0)
    # The centred class means sum to zero, and only the mean of the row's class changes.
    shifts = (own - mu[labels]) / jnp.maximum(classes, 1)[:, None]
    return _RowsLeftOut(x, mu, residuals, remaining, own, shifts)


class _GaussianLogits(NamedTuple):
    """The Gaussian term of each row from the fit without it, `logits` `[n, classes]`.

    Rows where `has_spread` `[n]` is false are invalid: the scatter without the row is zero.
    """

    logits: jax.Array
    has_spread: jax.Array


def _within_classes(support: Support, rows: _RowsLeftOut) -> _GaussianLogits:
    """Return the Gaussian terms with the scatter within the classes."""
    labels, members, counts, remaining = support.labels, support.members, support.counts, rows.remaining
    factors = jnp.where(remaining > 0, counts[labels] / jnp.maximum(remaining, 1), 0.0)
    # Traces without the row are sums over the remaining rows: differences would leave rounding errors instead of 0.
    squares = jnp.sum(jnp.square(rows.residuals), axis=1)
    class_traces = matmul(members.T, squares[:, None])[:, 0]
    own_trace = class_traces[labels] - factors * squares
    own_trace = jnp.where((remaining <= 1) | (own_trace < _ROUNDING * class_traces[labels]), 0.0, own_trace)
    traces = matmul(1 - members, class_traces[:, None])[:, 0] + own_trace
    scatter = matmul(rows.residuals.T, rows.residuals)
    return _downdated_logits(support, rows, scatter=scatter, traces=traces, r=rows.residuals, factors=factors)


def _around_all(support: Support, rows: _RowsLeftOut) -> jax.Array:
    """Return the Gaussian terms with the scatter around the mean of all rows; zeros for rows without spread."""
    present = support.labels >= 0
    n = jnp.sum(present)
    mean = jnp.sum(jnp.where(present[:, None], rows.x, 0.0), axis=0) / jnp.maximum(n, 1)
    residuals = jnp.where(present[:, None], rows.x - mean, 0.0)
    lost = n / jnp.maximum(n - 1, 1) * jnp.sum(jnp.square(residuals), axis=1)
    traces = jnp.sum(jnp.square(residuals)) - lost
    traces = jnp.where(traces > _ROUNDING * (traces + lost), traces, 0.0)
    factors = jnp.full(len(rows.x), n / jnp.maximum(n - 1, 1))
    scatter = matmul(residuals.T, residuals)
    found = _downdated_logits(support, rows, scatter=scatter, traces=traces, r=residuals, factors=factors)
    return jnp.where(found.has_spread[:, None], found.logits, 0.0)


def _downdated_logits(
    support: Support,
    rows: _RowsLeftOut,
    *,
    scatter: jax.Array,
    traces: jax.Array,
    r: jax.Array,
    factors: jax.Array,
) -> _GaussianLogits:
    """Return the Gaussian terms when row i changes the `scatter` to scatter − factors_i r_i r_iᵀ of trace traces_i.

    In the eigenbasis of the scatter, the regularised scatter is diagonal for any trace, and the Sherman–Morrison
    formula gives its inverse after the downdate.
    """
    n = jnp.sum(support.labels >= 0)
    ridge = traces / jnp.maximum(n - 2, 1)
    has_spread = traces > _MIN_SPREAD * n
    values, vectors = jnp.linalg.eigh(scatter, symmetrize_input=False)
    inverse = 1 / (jnp.maximum(values, 0.0) + jnp.where(has_spread, ridge, 1.0)[:, None])  # diagonals, [rows, dim]
    x, r, mu, own, shift = (matmul(v, vectors) for v in (rows.x, r, rows.class_means, rows.own_means, rows.mean_shifts))
    scaled_r = r * inverse
    correction = factors / (1 - factors * jnp.sum(scaled_r * r, axis=1))

    def products(a: jax.Array, b: jax.Array) -> jax.Array:
        """Return a_i Σ_i⁻¹ b_i for each row i, `[rows]`."""
        return jnp.sum(a * inverse * b, axis=1) + correction * jnp.sum(scaled_r * a, axis=1) * jnp.sum(
            scaled_r * b, axis=1
        )

    scaled_x = x * inverse + (correction * jnp.sum(scaled_r * x, axis=1))[:, None] * scaled_r
    x_mu = matmul(scaled_x, mu.T)  # x_i Σ_i⁻¹ μ_c, [rows, classes]; mu_mu: μ_c Σ_i⁻¹ μ_c
    r_mu = matmul(scaled_r, mu.T)
    mu_mu = matmul(inverse, jnp.square(mu).T) + correction[:, None] * jnp.square(r_mu)
    own_class = support.members > 0
    x_mu = jnp.where(own_class, products(x, own)[:, None], x_mu)
    mu_mu = jnp.where(own_class, products(own, own)[:, None], mu_mu)
    common = products(x, shift) - products(shift, shift) / 2
    return _GaussianLogits(rows.x.shape[1] * (x_mu - mu_mu / 2 - common[:, None]), has_spread)


def _center(means: jax.Array, counts: jax.Array) -> jax.Array:
    known = (counts > 0)[:, None]
    return jnp.sum(known * means, axis=0) / jnp.maximum(known.sum(), 1)


def _solve(means: jax.Array, counts: jax.Array, scatter: jax.Array) -> State:
    """Return the linear classifier for class means `[classes, dim]` and the scatter (n − 1) S within the classes."""
    n = jnp.maximum(jnp.sum(counts), 1)
    known = (counts > 0)[:, None]
    mean = jnp.sum(counts[:, None] * means, axis=0) / n
    apart = jnp.where(known, means - mean, 0.0) * jnp.sqrt(counts)[:, None]
    within = jnp.trace(scatter) > _MIN_SPREAD * n
    used = jnp.where(within, scatter, scatter + matmul(apart.T, apart))
    spread = jnp.trace(used) > _MIN_SPREAD * n
    ridge = jnp.where(spread, jnp.trace(used) / jnp.maximum(n - 1, 1), 1.0)
    center = _center(means, counts)
    away = jnp.where(known, means - center, 0.0)
    factor = jnp.linalg.cholesky(used + ridge * jnp.eye(len(used)), symmetrize_input=False)
    weights = used.shape[0] * jax.scipy.linalg.cho_solve((factor, True), away.T).T
    weights = jnp.where(spread, weights, 0.0)
    bias = -jnp.sum(weights * away, axis=1) / 2
    return {
        "weights": weights,
        "bias": bias,
        "center": center,
        "means": means,
        "counts": counts,
        "scatter": scatter,
    }

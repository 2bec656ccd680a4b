"""Gaussian discriminant analysis beside the text: "a hard-to-beat baseline" (arXiv 2402.04087, equations 4 to 8)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import class_means, matmul
from adapt.adapters.support import Support, pytree
from adapt.adapters.validation import check_at_least

_NO_SPREAD = 1e-9  # of the trace of a scatter, an example: less is rounding


@pytree
class Gda(Adapter):
    """logits = scale · x·w_c + alpha (x·W_c + b_c), the second term that of Gaussian classes with one covariance.

    Σ⁻¹ = dim · ((n − 1) S + tr(S) I)⁻¹, S the covariance of the examples less their class's mean; W_c = Σ⁻¹(μ_c − m),
    b_c = −½ (μ_c + m)·W_c, m the mean of the class means. That is the authors' Σ⁻¹μ_c and −½ μ_cᵀΣ⁻¹μ_c less what all
    classes have in common, so that a class without examples keeps its text. Where no class has two different
    examples S is the covariance about the mean of all. Without text: the second term alone, with alpha.
    """

    name = "gda"
    alpha: float = 0.03

    select_by_folds = True
    weights = ("alpha",)
    grid = {"alpha": (0.03, 0.001, 0.003, 0.01, 0.1, 0.3, 1.0, 10.0, 100.0, 1000.0)}

    def check(self) -> None:
        check_at_least(self, 0, "alpha")

    def learn(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        means, counts = class_means(support.features, support.labels, support.num_classes)
        rest = jnp.where(support.labels[:, None] >= 0, support.features - means[support.labels], 0.0)
        return _solve(means, counts, matmul(rest.T, rest))

    def learn_more(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        """Adds the examples that are new to means and scatter (Chan, Golub and LeVeque 1979), and solves again."""
        rows = len(old.labels)
        features, labels = new.features[rows:], new.labels[rows:]
        added, more = class_means(features, labels, new.num_classes)
        rest = jnp.where(labels[:, None] >= 0, features - added[labels], 0.0)
        grown = new.num_classes - old.num_classes
        means, counts = jnp.pad(state["means"], [(0, grown), (0, 0)]), jnp.pad(state["counts"], (0, grown))
        total = jnp.maximum(counts + more, 1)
        apart = (added - means) * jnp.sqrt(counts * more / total)[:, None]
        means = means + (added - means) * (more / total)[:, None]
        return _solve(means, counts + more, state["scatter"] + matmul(rest.T, rest) + matmul(apart.T, apart))

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        gaussian = matmul(x - state["center"], state["weights"].T) + state["bias"]
        return support.zero_shot(x), self._masked(support, gaussian, state["counts"] > 0)

    def left_out(self, support: Support, *, key: jax.Array) -> Terms:
        return support.zero_shot(support.features), self._left_out(support)

    def _masked(self, support: Support, gaussian: jax.Array, known: jax.Array) -> jax.Array:
        """Without text, a class without examples is as unlikely as the least likely one."""
        if support.class_text_features is not None:
            return gaussian
        return jnp.where(known, gaussian, jnp.min(gaussian, axis=1, keepdims=True))

    def _left_out(self, support: Support) -> jax.Array:
        """Without row x of class y, the scatter loses n_y/(n_y − 1) r rᵀ, r = x − μ_y: a rank-one downdate.

        In the eigenvectors of the scatter the rest is diagonal, whatever its trace; Sherman–Morrison does the rest.
        """
        labels, members = support.labels, support.members
        means, counts = class_means(support.features, labels, support.num_classes)
        present = labels >= 0
        center = _center(means, counts)
        x, mu = support.features - center, jnp.where(counts[:, None] > 0, means - center, 0.0)
        r = jnp.where(present[:, None], x - mu[labels], 0.0)
        rest = counts[labels] - 1
        factor = jnp.where(rest > 0, counts[labels] / jnp.maximum(rest, 1), 0.0)
        own = jnp.where(rest[:, None] > 0, mu[labels] - r / jnp.maximum(rest, 1)[:, None], 0.0)
        classes = jnp.sum(counts > 0) - (rest == 0)
        # Of the class means, which sum to zero here, only that of the row's class changes.
        m = (own - mu[labels]) / jnp.maximum(classes, 1)[:, None]
        n = jnp.sum(present)

        def downdated(
            scatter: jax.Array, trace: jax.Array, r: jax.Array, factor: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            ridge = trace / jnp.maximum(n - 2, 1)
            spread = trace > _NO_SPREAD * n
            values, vectors = jnp.linalg.eigh(scatter, symmetrize_input=False)
            inverse = 1 / (jnp.maximum(values, 0.0) + jnp.where(spread, ridge, 1.0)[:, None])  # [rows, dim]
            xe, re, mue, owne, me = (matmul(v, vectors) for v in (x, r, mu, own, m))
            scaled = re * inverse
            back = factor / (1 - factor * jnp.sum(scaled * re, axis=1))

            def products(a: jax.Array, b: jax.Array) -> jax.Array:  # a Σ⁻¹ b of rows, by row
                return jnp.sum(a * inverse * b, axis=1) + back * jnp.sum(scaled * a, axis=1) * jnp.sum(
                    scaled * b, axis=1
                )

            x_scaled = xe * inverse + (back * jnp.sum(scaled * xe, axis=1))[:, None] * scaled
            with_mu = matmul(x_scaled, mue.T)
            r_mu = matmul(scaled, mue.T)
            mu_mu = matmul(inverse, jnp.square(mue).T) + back[:, None] * jnp.square(r_mu)
            own_class = members > 0
            with_mu = jnp.where(own_class, products(xe, owne)[:, None], with_mu)
            mu_mu = jnp.where(own_class, products(owne, owne)[:, None], mu_mu)
            common = products(xe, me) - products(me, me) / 2
            return x.shape[1] * (with_mu - mu_mu / 2 - common[:, None]), spread

        # Traces without the row, as sums of what is left: a difference would leave rounding where nothing is.
        squares = jnp.sum(jnp.square(r), axis=1)
        of_class = matmul(members.T, squares[:, None])[:, 0]
        left = of_class[labels] - factor * squares
        left = jnp.where((rest <= 1) | (left < 1e-6 * of_class[labels]), 0.0, left)
        gaussian, spread = downdated(matmul(r.T, r), matmul(1 - members, of_class[:, None])[:, 0] + left, r, factor)
        mean = jnp.sum(jnp.where(present[:, None], x, 0.0), axis=0) / jnp.maximum(n, 1)
        about = jnp.where(present[:, None], x - mean, 0.0)

        def about_all() -> jax.Array:
            lost = n / jnp.maximum(n - 1, 1) * jnp.sum(jnp.square(about), axis=1)
            trace = jnp.sum(jnp.square(about)) - lost
            trace = jnp.where(trace > 1e-6 * (trace + lost), trace, 0.0)
            scatter, factor = matmul(about.T, about), jnp.full(len(x), n / jnp.maximum(n - 1, 1))
            found, spread = downdated(scatter, trace, about, factor)
            return jnp.where(spread[:, None], found, 0.0)

        gaussian = jax.lax.cond(
            jnp.all(spread | ~present), lambda: gaussian, lambda: jnp.where(spread[:, None], gaussian, about_all())
        )
        known = (counts > 0) & ~((members > 0) & (rest == 0)[:, None])
        return self._masked(support, jnp.where(known, gaussian, 0.0), known)


def _center(means: jax.Array, counts: jax.Array) -> jax.Array:
    known = (counts > 0)[:, None]
    return jnp.sum(known * means, axis=0) / jnp.maximum(known.sum(), 1)


def _solve(means: jax.Array, counts: jax.Array, scatter: jax.Array) -> State:
    """Returns the linear classifier of class means `[classes, dim]` and of the scatter (n − 1) S within them."""
    n = jnp.maximum(jnp.sum(counts), 1)
    known = (counts > 0)[:, None]
    mean = jnp.sum(counts[:, None] * means, axis=0) / n
    apart = jnp.where(known, means - mean, 0.0) * jnp.sqrt(counts)[:, None]
    within = jnp.trace(scatter) > _NO_SPREAD * n
    used = jnp.where(within, scatter, scatter + matmul(apart.T, apart))
    spread = jnp.trace(used) > _NO_SPREAD * n
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

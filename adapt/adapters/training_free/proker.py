"""ProKeR: kernel ridge regression around the zero-shot prediction (arXiv 2501.11175)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import affinity, matmul
from adapt.adapters.pytrees import pytree
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least, check_positive


@pytree
class Proker(Adapter):
    """logits = scale · (x·w_c + Σ_k exp(−beta (1 − x·s_k)) a_kc), a = (K / ridge + I)⁻¹ (Y − S wᵀ).

    K is the kernel between the support examples S, and Y their one-hot labels. A class without examples keeps its
    text. Without class texts, w = 0.
    """

    name = "proker"
    beta: float = 2.5
    ridge: float = 0.1

    select_by_folds = True
    grid = {"ridge": (0.1, 0.01, 0.03, 0.3, 1.0)}

    def check_settings(self) -> None:
        check_at_least(self, 0, "beta")
        check_positive(self, "ridge")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        return {"coefficients": self._solve(support, affinity(support.features, support.features, self.beta))}

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        kernel = affinity(x, support.features, self.beta)
        return (support.zero_shot(x) + support.logit_scale * matmul(kernel, state["coefficients"]),)

    def leave_one_out(self, support: Support, *, key: jax.Array) -> Terms:
        """Return the terms of each row from the fit without it.

        As in every kernel ridge regression, the residual of row i without it is a_i / ((K / ridge + I)⁻¹)_ii.
        """
        kernel = affinity(support.features, support.features, self.beta)
        factor = jnp.linalg.cholesky(self._system(support, kernel), symmetrize_input=False)
        inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(factor)))
        residual = self._residual(support)
        left = matmul(inverse, residual) / jnp.diagonal(inverse)[:, None]
        members = support.members
        only = (members > 0) & (support.counts == 1)  # its class has no other example
        predicted = self.ridge * jnp.where(only, 0.0, residual - left)
        return (support.zero_shot(support.features) + support.logit_scale * predicted,)

    def _solve(self, support: Support, kernel: jax.Array) -> jax.Array:
        factor = jnp.linalg.cholesky(self._system(support, kernel), symmetrize_input=False)
        return jax.scipy.linalg.cho_solve((factor, True), self._residual(support))

    def _system(self, support: Support, kernel: jax.Array) -> jax.Array:
        present = support.labels >= 0
        kernel = jnp.where(present[:, None] & present, kernel / self.ridge, 0.0)
        return kernel + jnp.eye(len(present))

    def _residual(self, support: Support) -> jax.Array:
        residual = support.members - support.zero_shot(support.features) / support.logit_scale
        valid = (support.labels >= 0)[:, None] & (support.counts > 0)
        return jnp.where(valid, residual, 0.0)

"""A gate around any other adapter: predictions change only near the examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.rbf_gate import closeness, closeness_left_out
from adapt.adapters.support import Support, pytree
from adapt.adapters.tip_adapter import TipAdapter
from adapt.adapters.validation import check_gate


@pytree
class Local(Adapter):
    """logits = zero-shot + gate(x) (inner − zero-shot), gate(x) = damp · exp(rbf · clamp(1 − max_j x·s_j, 0, 1)).

    The gate is that of Localized Latent Updates (arXiv 2212.06556), here on the logits of the adapter `inner`; s_j are
    the examples. rbf = 0 with damp = 1 is the inner adapter itself; the lower rbf, the nearer an example must be. The
    settings of the inner adapter are settings of this one as well.
    """

    name = "local"
    inner: Adapter = TipAdapter()
    rbf: float = -16.0
    damp: float = 1.0

    local = True
    needs_text = True

    @property
    def training_free(self) -> bool:  # type: ignore[override]
        return self.inner.training_free

    @property
    def closed_form(self) -> bool:  # type: ignore[override]
        return self.inner.closed_form

    @property
    def select_by_folds(self) -> bool:  # type: ignore[override]
        return self.inner.select_by_folds

    @property
    def grid(self) -> Mapping[str, tuple[Any, ...]]:  # type: ignore[override]
        return self.inner.grid

    def check(self) -> None:
        check_gate(self)
        if self.inner.local:
            raise ValueError(f"inner {type(self.inner).__name__} is local itself; name another adapter")

    def learn(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        return self.inner.learn(support, key=key, start=start)

    def learn_more(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.inner.learn_more(state, old, new, key=key)

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        near = closeness(x, support.features, support.labels >= 0, self.rbf)
        return self._gated(support.zero_shot(x), self.inner.terms(state, support, x), near)

    def left_out(self, support: Support, *, key: jax.Array) -> Terms:
        near = closeness_left_out(support.features, support.labels >= 0, self.rbf)
        return self._gated(support.zero_shot(support.features), self.inner.left_out(support, key=key), near)

    def _gated(self, zero_shot: jax.Array, terms: Terms, near: jax.Array) -> Terms:
        return (zero_shot + self.damp * near * (self.inner.logits(terms) - zero_shot),)

"""A gate around any other adapter, so that predictions change only near the support examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.local_updates.rbf_gate import closeness, closeness_leave_one_out
from adapt.adapters.pytrees import pytree
from adapt.adapters.support import Support
from adapt.adapters.training_free.tip_adapter import TipAdapter
from adapt.adapters.validation import check_gate


@pytree
class Local(Adapter):
    """logits = zero-shot + gate(x) (inner − zero-shot), gate(x) = damp · exp(rbf · clamp(1 − max_j x·s_j, 0, 1)).

    The gate is that of Localized Latent Updates (arXiv 2212.06556), applied to the logits of the adapter `inner`; s_j
    are the support examples. With rbf = 0 and damp = 1, this is the inner adapter; a lower rbf restricts the change to
    queries nearer to a support example. The settings of the inner adapter can be set on this one.
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

    @property
    def term_weights(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.term_weights

    def with_term_weights(self, values: Sequence[Any]) -> Local:
        return dataclasses.replace(self, inner=self.inner.with_term_weights(values))

    def check_settings(self) -> None:
        check_gate(self)
        if self.inner.local:
            raise ValueError(
                f"inner adapter {type(self.inner).__name__} is already local. Use it without 'local' around it."
            )
        if self.inner.transductive:
            raise ValueError(
                f"inner adapter {self.inner.name} is transductive: its predictions depend on the other queries, not on "
                "nearby support examples alone. Use it without 'local' around it."
            )

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        return self.inner.fit_state(support, key=key, start=start)

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.inner.extend_state(state, old, new, key=key)

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        near = closeness(x, support.features, support.labels >= 0, self.rbf)
        return support.zero_shot(x), self.damp * near, *self.inner.logit_terms(state, support, x)

    def leave_one_out(self, support: Support, *, key: jax.Array) -> Terms:
        near = closeness_leave_one_out(support.features, support.labels >= 0, self.rbf)
        return support.zero_shot(support.features), self.damp * near, *self.inner.leave_one_out(support, key=key)

    def logits(self, terms: Terms) -> jax.Array:
        """Return the gated logits of the terms: the zero-shot logits, the gate, and the terms of the inner adapter."""
        zero_shot, gate, *inner = terms
        return zero_shot + gate * (self.inner.logits(tuple(inner)) - zero_shot)

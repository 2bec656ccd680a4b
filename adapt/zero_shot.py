"""Classification by class names alone: the nearest text."""

from __future__ import annotations

import jax

from adapt.adapter import Adapter, State, Support, Terms, pytree


@pytree
class ZeroShot(Adapter):
    """logits = scale · x·w_c; ignores the examples."""

    needs_text = True

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (support.zero_shot(x),)

    def left_out(self, support: Support, *, key: jax.Array) -> Terms:
        return (support.zero_shot(support.features),)

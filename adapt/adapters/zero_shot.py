"""Classification by class names alone: the nearest text."""

from __future__ import annotations

import jax

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.support import Support, pytree


@pytree
class ZeroShot(Adapter):
    """logits = scale · x·w_c; ignores the examples."""

    name = "zero_shot"
    needs_text = True

    def terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (support.zero_shot(x),)

    def left_out(self, support: Support, *, key: jax.Array) -> Terms:
        return (support.zero_shot(support.features),)

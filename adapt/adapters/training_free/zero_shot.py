"""Zero-shot classification: the nearest class text."""

from __future__ import annotations

import jax

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.pytrees import pytree
from adapt.adapters.support import Support


@pytree
class ZeroShot(Adapter):
    """logits = scale · x·w_c; the support set is not used."""

    name = "zero_shot"
    needs_text = True

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (support.zero_shot(x),)

    def leave_one_out(self, support: Support, *, key: jax.Array) -> Terms:
        return (support.zero_shot(support.features),)

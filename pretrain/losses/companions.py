"""The share of the context's attention that goes to companions: images with similar texts.

For unit text embeddings t_i, centred by their mean over the batch and normalised again to t'_i, the companions of image
i are C_i = {j ≠ i: t'_i · t'_j ≥ 0.5}. With attention weights a_ij (`reference.attention`) the share is the mean over i
of Σ_{j in C_i} a_ij. Attention that ignores content has the share that companions have among all pairs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrain.losses.contextual_attention import ContextualAttention
from pretrain.losses.pairwise_blocks import BlockLayout, inverse_norms, pairwise

SIMILAR = 0.5  # least cosine of the centred embeddings of similar texts
_PART = 32  # one row in 32 is measured: about 0.5 % of the arithmetic of the loss
_LEAST_ROWS, _MOST_ROWS, _MOST_PAIRS = 16, 128, 1 << 20  # 4 MB per array of pairs
_TINY = 1e-12


class Companions(NamedTuple):
    """Share of the attention on companions, and the mean number of companions of an image in the batch."""

    attention_share: jax.Array
    per_row: jax.Array


def measured_rows(batch: int) -> int:
    """Return how many rows of a batch are measured: one in 32, at most 128 and a million pairs, but at least 16."""
    return min(batch, max(_LEAST_ROWS, min(batch // _PART, _MOST_ROWS, _MOST_PAIRS // batch)))


@jax.named_scope("companions")
def measure_companions(
    u: jax.Array,
    v: jax.Array,
    context_temperature: jax.Array,
    *,
    attention: ContextualAttention,
    layout: BlockLayout,
) -> Companions:
    """Return the measure for raw image and text embeddings `[batch, dim]`; `context_temperature` is a logarithm.

    It is that of the first rows of the batch (`measured_rows`), which attend to the whole batch. It has no gradient.
    """
    u, v = jax.lax.stop_gradient((u.astype(layout.dtype), v.astype(jnp.float32)))
    batch, rows = len(u), measured_rows(len(u))
    index = jnp.arange(batch)
    others = index[:rows, None] != index
    allowed = others if attention.self_mask else jnp.ones_like(others)
    if attention.buffer == "device":
        device = index // (batch // layout.devices)
        allowed &= device[:rows, None] == device
    inverse = inverse_norms(u)
    cosines = pairwise(u[:rows], u) * inverse[:rows, None] * inverse
    divisor = jnp.exp(jax.lax.stop_gradient(context_temperature)) * math.sqrt(u.shape[1])
    weights = jax.nn.softmax(jnp.where(allowed, cosines / divisor, -jnp.inf))
    similar = others & (_centred_cosines(v, rows) >= SIMILAR)
    return Companions(jnp.sum(jnp.where(similar, weights, 0.0)) / rows, jnp.sum(similar) / rows)


def _centred_cosines(v: jax.Array, rows: int) -> jax.Array:
    """Return the cosines `[rows, batch]` of unit embeddings minus their mean, without a centred copy of the batch.

    With the mean m: (t_i − m)·(t_j − m) = (t_i − m)·t_j − (t_i − m)·m, and |t_j − m|² = |t_j|² − 2 t_j·m + |m|².
    """
    inverse = inverse_norms(v)
    mean = inverse @ v / len(v)
    own = v[:rows] * inverse[:rows, None] - mean
    products = pairwise(own, v) * inverse - (own @ mean)[:, None]
    squared = jnp.where(inverse > 0, 1.0, 0.0) - 2 * inverse * (v @ mean) + mean @ mean
    return products * inverse_norms(own)[:, None] * jax.lax.rsqrt(jnp.maximum(squared, _TINY))

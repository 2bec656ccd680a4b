"""The context objective's attention: every image embedding rewritten as a mixture of the others.

Context-Aware Multimodal Pretraining (LIxP), arXiv 2411.15099. Computed block by block with an online softmax; the
backward pass computes the blocks again.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrain.losses.pairwise_blocks import Layout, inverse_norms, join, mix, pairwise, sweep, through_normalization

_TINY = jnp.finfo(jnp.float32).tiny


class Context(NamedTuple):
    """Contextualised embeddings `[batch, dim]` and the effective number of items that each attends to `[batch]`.

    The embeddings have the layout's dtype.
    """

    embeddings: jax.Array
    effective_items: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """What may be switched off or over in the attention, to see what it is worth.

    `self_mask` keeps items from attending to themselves. `stop_gradient` names the roles, of "keys" and "values",
    through which no gradient flows. `normalized_values` mixes unit vectors. `buffer` is what is attended to: the
    "global" batch, or the rows on the same "device".
    """

    self_mask: bool = True
    stop_gradient: tuple[str, ...] = ()
    normalized_values: bool = False
    buffer: str = "global"


def contextualize(
    u: jax.Array,
    context_temperature: jax.Array,
    *,
    attention: Attention | None = None,
    layout: Layout | None = None,
) -> Context:
    """Returns softmax(x xᵀ / (exp(context_temperature) sqrt(dim)), own entry masked) u for raw embeddings u.

    x are the rows of u `[batch, dim]` scaled to length 1. The values are the raw embeddings, and gradients flow through
    queries, keys and values. `context_temperature` is the logarithm of the temperature. The effective number of items,
    exp(entropy), is there to look at and has no gradient. Raises `ValueError` where there is nothing to attend to.
    """
    attention, layout = attention or Attention(), layout or Layout()
    items = len(u) if attention.buffer == "global" else len(u) // layout.devices
    if attention.self_mask and items < 2:
        where = "a batch" if attention.buffer == "global" else "a per-device batch"
        raise ValueError(
            f"the context objective needs {where} of at least 2: with {items} item there is no other to attend to"
        )
    return Context(*_contextualize(attention, layout, u, context_temperature))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _contextualize(attention: Attention, layout: Layout, u: jax.Array, temperature: jax.Array):
    run = layout.on_devices(functools.partial(_attend, attention, layout))
    (mixed, effective_items, _), _ = run(u, temperature)
    return mixed, effective_items


def _forward(attention: Attention, layout: Layout, u: jax.Array, temperature: jax.Array):
    run = layout.on_devices(functools.partial(_attend, attention, layout))
    (mixed, effective_items, log_sum_exp), _ = run(u, temperature)
    return (mixed, effective_items), (u, temperature, mixed, log_sum_exp)


def _backward(attention: Attention, layout: Layout, residuals, cotangents):
    u, temperature, mixed, log_sum_exp = residuals
    run = layout.on_devices(functools.partial(_differentiate, attention, layout))
    return run((u, mixed, log_sum_exp, cotangents[0]), temperature)


_contextualize.defvjp(_forward, _backward)


def _attend(attention: Attention, layout: Layout, u: jax.Array, temperature: jax.Array):
    """Returns this device's mixtures, their effective number of items, and log Σ exp of each row's logits."""
    blocks = layout.cut({"u": u.astype(layout.dtype), "inverse": inverse_norms(u)})

    def visit(row, column, sums, column_sums):
        highest, total, mean_logit, mixed = sums
        logits, allowed = _logits(attention, row, column, temperature, u.shape[-1])
        masked = jnp.where(allowed, logits, -jnp.inf)
        higher = jnp.maximum(highest, jnp.max(masked, axis=1))
        reference = jnp.where(jnp.isfinite(higher), higher, 0.0)
        kept, weights = total * jnp.exp(highest - reference), jnp.exp(masked - reference[:, None])
        total = kept + jnp.sum(weights, axis=1)
        share = jnp.where(total > 0, 1 / jnp.maximum(total, _TINY), 0.0)  # all means so far are kept as means
        values = weights * column["inverse"] if attention.normalized_values else weights
        mean_logit = share * (kept * mean_logit + jnp.sum(weights * logits, axis=1))
        mixed = share[:, None] * (kept[:, None] * mixed + mix(values, column["u"]))
        return (higher, total, mean_logit, mixed), column_sums

    zero = jnp.zeros(blocks["index"].shape)
    start = (zero - jnp.inf, zero, zero, jnp.zeros(blocks["u"].shape, jnp.float32))
    sums, _ = sweep(visit, layout, blocks, blocks, row_sums=start, own_columns_only=attention.buffer == "device")
    highest, total, mean_logit, mixed = (join(part, len(u)) for part in sums)
    log_sum_exp = highest + jnp.log(total)
    return (mixed.astype(layout.dtype), jnp.exp(log_sum_exp - mean_logit), log_sum_exp), ()


def _differentiate(attention: Attention, layout: Layout, arrays, temperature: jax.Array):
    """Returns this device's gradient of its rows, as queries, keys and values of all others', and of the temperature.

    With s_ij the logits, P their softmax, o the mixtures and g their gradient, dP_ij = g_i·value_j and dS_ij =
    P_ij (dP_ij − g_i·o_i). Keys are queries, so a block has both dS_ij and dS_ji at hand, and no column needs a sum.
    """
    u, mixed, log_sum_exp, gradient = arrays
    blocks = layout.cut(
        {
            "u": u.astype(layout.dtype),
            "inverse": inverse_norms(u),
            "gradient": gradient.astype(layout.dtype),
            "along": jnp.sum(mixed.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1),
            "log_sum_exp": log_sum_exp,
        }
    )
    divisor = jnp.exp(temperature) * math.sqrt(u.shape[-1])

    def visit(row, column, sums, column_sums):
        d_u, d_temperature = sums
        logits, allowed = _logits(attention, row, column, temperature, u.shape[-1])
        gives = jnp.where(allowed, jnp.exp(logits - row["log_sum_exp"][:, None]), 0.0)  # row to column
        takes = jnp.where(allowed, jnp.exp(logits - column["log_sum_exp"]), 0.0)  # column to row
        row_norm, column_norm = (
            (row["inverse"][:, None], column["inverse"]) if attention.normalized_values else (1.0, 1.0)
        )
        as_query = gives * (pairwise(row["gradient"], column["u"]) * column_norm - row["along"][:, None])
        d_logits = as_query
        if "keys" not in attention.stop_gradient:
            d_logits += takes * (pairwise(row["u"], column["gradient"]) * row_norm - column["along"])
        d_unit = mix(d_logits * column["inverse"] / divisor, column["u"])
        if "values" not in attention.stop_gradient:
            d_value = mix(takes, column["gradient"])
            if attention.normalized_values:
                d_unit += d_value
            else:
                d_u += d_value
        d_u += through_normalization(d_unit, row["u"], row["inverse"])
        return (d_u, d_temperature - jnp.sum(as_query * logits, axis=1)), column_sums

    start = (jnp.zeros(blocks["u"].shape, jnp.float32), jnp.zeros(blocks["index"].shape))
    sums, _ = sweep(visit, layout, blocks, blocks, row_sums=start, own_columns_only=attention.buffer == "device")
    return join(sums[0], len(u)).astype(u.dtype), jnp.sum(sums[1])


def _logits(attention: Attention, row: dict, column: dict, temperature: jax.Array, dim: int):
    """Returns a block's attention logits, and which pairs are allowed."""
    cosines = pairwise(row["u"], column["u"]) * row["inverse"][:, None] * column["inverse"]
    allowed = (row["index"] >= 0)[:, None] & (column["index"] >= 0)
    if attention.self_mask:
        allowed &= row["index"][:, None] != column["index"]
    return cosines / (jnp.exp(temperature) * math.sqrt(dim)), allowed

"""The attention of the context objective: each image embedding becomes a mixture of other ones (arXiv 2411.15099).

`reference.contextualize` defines it. Here it is computed block by block with an online softmax; the backward pass
computes the blocks again.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pretrain.losses.pairwise_blocks import BlockLayout, inverse_norms, join, mix, normalize_vjp, pairwise, sweep

_TINY = jnp.finfo(jnp.float32).tiny


class Context(NamedTuple):
    """Contextualised embeddings `[batch, dim]`, and the effective number of items that each attends to `[batch]`.

    The embeddings have the layout's dtype.
    """

    embeddings: jax.Array
    effective_items: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContextualAttention:
    """Options of the attention, to measure what each part of it contributes.

    self_mask: whether items are kept from attending to themselves.
    stop_gradient: the roles, of "keys" and "values", through which no gradient flows.
    normalized_values: whether the mixtures are of vectors of length 1 instead of raw embeddings.
    buffer: what items attend to: the "global" batch, or the rows on the same "device".
    """

    self_mask: bool = True
    stop_gradient: tuple[str, ...] = ()
    normalized_values: bool = False
    buffer: str = "global"


def contextualize(
    u: jax.Array,
    context_temperature: jax.Array,
    *,
    attention: ContextualAttention | None = None,
    layout: BlockLayout | None = None,
) -> Context:
    """Return softmax(x xᵀ / (exp(context_temperature) √dim)) u for raw embeddings u; no item attends to itself.

    x are the rows of u `[batch, dim]` scaled to length 1. The values are the raw embeddings. Gradients flow through
    queries, keys and values. `context_temperature` is the logarithm of the temperature. The effective number of items
    is exp(entropy); it has no gradient. Raises `ValueError` if there is nothing to attend to.
    """
    attention, layout = attention or ContextualAttention(), layout or BlockLayout()
    items = len(u) if attention.buffer == "global" else len(u) // layout.devices
    if attention.self_mask and items < 2:
        batch = "a batch" if attention.buffer == "global" else "a per-device batch"
        raise ValueError(
            f"the context objective needs {batch} of at least 2, but it has {items}: there is nothing to attend to"
        )
    return Context(*_contextualize(attention, layout, u, context_temperature))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _contextualize(attention: ContextualAttention, layout: BlockLayout, u: jax.Array, temperature: jax.Array):
    run = layout.on_devices(functools.partial(_attend, attention, layout))
    (mixed, effective_items, _), _ = run(u, temperature)
    return mixed, effective_items


def _forward(attention: ContextualAttention, layout: BlockLayout, u: jax.Array, temperature: jax.Array):
    run = layout.on_devices(functools.partial(_attend, attention, layout))
    (mixed, effective_items, log_sum_exp), _ = run(u, temperature)
    return (mixed, effective_items), (u, temperature, mixed, log_sum_exp)


def _backward(attention: ContextualAttention, layout: BlockLayout, residuals, cotangents):
    u, temperature, mixed, log_sum_exp = residuals
    run = layout.on_devices(functools.partial(_differentiate, attention, layout))
    return run((u, mixed, log_sum_exp, cotangents[0]), temperature)


_contextualize.defvjp(_forward, _backward)


# Forward pass


class _OnlineSoftmax(NamedTuple):
    """The softmax of each row over the columns seen so far: highest logit, Σ exp, mean logit, mean value."""

    highest: jax.Array
    total: jax.Array
    mean_logit: jax.Array
    mixed: jax.Array


def _attend(attention: ContextualAttention, layout: BlockLayout, u: jax.Array, temperature: jax.Array):
    """Return this device's mixtures, their effective number of items, and log Σ exp of each row's logits."""
    blocks = layout.split({"u": u.astype(layout.dtype), "inverse": inverse_norms(u)})
    zero = jnp.zeros(blocks["index"].shape)
    start = _OnlineSoftmax(zero - jnp.inf, zero, zero, jnp.zeros(blocks["u"].shape, jnp.float32))
    visit = functools.partial(_attend_block, attention, temperature)
    own_only = attention.buffer == "device"
    sums, _ = sweep(visit, layout, blocks, blocks, name="context_attention", row_sums=start, own_columns_only=own_only)
    highest, total, mean_logit, mixed = (join(part, len(u)) for part in sums)
    log_sum_exp = highest + jnp.log(total)
    return (mixed.astype(layout.dtype), jnp.exp(log_sum_exp - mean_logit), log_sum_exp), ()


def _attend_block(
    attention: ContextualAttention, temperature: jax.Array, row: dict, column: dict, sums: _OnlineSoftmax, unused: Any
):
    """Add the columns of a block to the softmax of its rows."""
    highest, total, mean_logit, mixed = sums
    logits, allowed = _logits(attention, row, column, temperature)
    masked = jnp.where(allowed, logits, -jnp.inf)
    higher = jnp.maximum(highest, jnp.max(masked, axis=1))
    reference = jnp.where(jnp.isfinite(higher), higher, 0.0)
    kept, weights = total * jnp.exp(highest - reference), jnp.exp(masked - reference[:, None])
    total = kept + jnp.sum(weights, axis=1)
    share = jnp.where(total > 0, 1 / jnp.maximum(total, _TINY), 0.0)  # the sums are kept as means
    values = weights * column["inverse"] if attention.normalized_values else weights
    mean_logit = share * (kept * mean_logit + jnp.sum(weights * logits, axis=1))
    mixed = share[:, None] * (kept[:, None] * mixed + mix(values, column["u"]))
    return _OnlineSoftmax(higher, total, mean_logit, mixed), unused


# Backward pass


class _Gradients(NamedTuple):
    """Gradients by the rows `[rows, dim]`, and each row's contribution to that of the temperature `[rows]`."""

    d_u: jax.Array
    d_temperature: jax.Array


def _differentiate(attention: ContextualAttention, layout: BlockLayout, arrays, temperature: jax.Array):
    """Return the gradients by this device's rows, as queries, keys and values, and by the temperature.

    With logits s_ij, their softmax P, the mixtures o and their gradient g: dP_ij = g_i·value_j and dS_ij =
    P_ij (dP_ij − g_i·o_i). Keys are queries, so a block has both dS_ij and dS_ji, and columns need no sums.
    """
    u, mixed, log_sum_exp, gradient = arrays
    blocks = layout.split(
        {
            "u": u.astype(layout.dtype),
            "inverse": inverse_norms(u),
            "gradient": gradient.astype(layout.dtype),
            "along": jnp.sum(mixed.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1),
            "log_sum_exp": log_sum_exp,
        }
    )
    divisor = jnp.exp(temperature) * math.sqrt(u.shape[-1])
    start = _Gradients(jnp.zeros(blocks["u"].shape, jnp.float32), jnp.zeros(blocks["index"].shape))
    visit = functools.partial(_differentiate_block, attention, temperature, divisor)
    own_only = attention.buffer == "device"
    sums, _ = sweep(
        visit, layout, blocks, blocks, name="context_attention_gradient", row_sums=start, own_columns_only=own_only
    )
    return join(sums.d_u, len(u)).astype(u.dtype), jnp.sum(sums.d_temperature)


def _differentiate_block(
    attention: ContextualAttention,
    temperature: jax.Array,
    divisor: jax.Array,
    row: dict,
    column: dict,
    sums: _Gradients,
    unused: Any,
):
    """Add the gradients by the rows of a block to the sums."""
    d_u, d_temperature = sums
    logits, allowed = _logits(attention, row, column, temperature)
    row_to_column = jnp.where(allowed, jnp.exp(logits - row["log_sum_exp"][:, None]), 0.0)
    column_to_row = jnp.where(allowed, jnp.exp(logits - column["log_sum_exp"]), 0.0)
    row_norm, column_norm = (row["inverse"][:, None], column["inverse"]) if attention.normalized_values else (1.0, 1.0)
    as_query = row_to_column * (pairwise(row["gradient"], column["u"]) * column_norm - row["along"][:, None])
    d_logits = as_query
    if "keys" not in attention.stop_gradient:
        d_logits += column_to_row * (pairwise(row["u"], column["gradient"]) * row_norm - column["along"])
    d_unit = mix(d_logits * column["inverse"] / divisor, column["u"])
    if "values" not in attention.stop_gradient:
        d_value = mix(column_to_row, column["gradient"])
        if attention.normalized_values:
            d_unit += d_value
        else:
            d_u += d_value
    d_u += normalize_vjp(d_unit, row["u"], row["inverse"])
    return _Gradients(d_u, d_temperature - jnp.sum(as_query * logits, axis=1)), unused


def _logits(attention: ContextualAttention, row: dict, column: dict, temperature: jax.Array):
    """Return the attention logits of a block, and which pairs may attend to each other."""
    cosines = pairwise(row["u"], column["u"]) * row["inverse"][:, None] * column["inverse"]
    allowed = (row["index"] >= 0)[:, None] & (column["index"] >= 0)
    if attention.self_mask:
        allowed &= row["index"][:, None] != column["index"]
    return cosines / (jnp.exp(temperature) * math.sqrt(row["u"].shape[-1])), allowed

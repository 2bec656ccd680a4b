"""The contrastive base losses, sigmoid and softmax, over all pairs of the global batch with memory linear in it.

Notation of the equations: x, t are L2-normalised image and text embeddings `[batch, dim]`, scale = exp(logit_scale).
Several views of the images (their own embeddings, the contextualised ones) are compared with the same texts in one
sweep. The gradient is made in the forward pass, block by block, while a block's logits are at hand: three matrix
products for a loss and its gradients, where making the logits once more in the backward pass would take four.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrain.losses.pairwise_blocks import (
    Layout,
    inverse_norms,
    join,
    mix,
    mix_transposed,
    pairwise,
    sweep,
    through_normalization,
)


class BaseLoss(NamedTuple):
    """The weighted sum of the views' losses, which is to be differentiated, and each view's `[views]`, to look at."""

    value: jax.Array
    terms: jax.Array


class Scales(NamedTuple):
    """The learnable scalars of each view, `[views]`: the logarithm of the logits' scale, and their bias."""

    logit_scale: jax.Array
    logit_bias: jax.Array


class Rule(NamedTuple):
    """What makes a base loss. The rest is the same for all.

    `block(logits, matched, row_statistics, column_statistics)` returns what the pairs of a block `[rows, columns]` add
    to the loss of their image, and its derivative with respect to the logits. `statistics`, where a rule needs them,
    is a first sweep that finds one number for each row and each column and view. `products` is the number of matrix
    products of all pairs that the loss and its gradients take.
    """

    block: Callable[..., tuple[jax.Array, jax.Array]]
    biased: bool
    products: int
    statistics: Callable | None = None


def base_loss(
    name: str,
    views: tuple[jax.Array, ...],
    texts: jax.Array,
    scales: Scales,
    *,
    weights: tuple[float, ...] = (1.0,),
    layout: Layout | None = None,
) -> BaseLoss:
    """Returns Σ_k weights[k] · loss(views[k], texts; scales[k]) of raw embeddings `[batch, dim]`, in float32.

    sigmoid: −(1/B) Σ_i Σ_j log σ(z_ij (scale x_i·t_j + bias)), z = +1 on the diagonal and −1 elsewhere: summed over
    texts, averaged over images (SigLIP, arXiv 2303.15343, algorithm 1).
    softmax: the mean of the cross-entropies of rows and of columns of scale x_i·t_j (CLIP, arXiv 2103.00020, figure
    3); the bias plays no part.
    """
    return BaseLoss(*_base_loss(RULES[name], weights, layout or Layout(), views, texts, scales))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _base_loss(rule: Rule, weights: tuple[float, ...], layout: Layout, views, texts, scales: Scales):
    _, (terms,) = layout.on_devices(functools.partial(_evaluate, rule, layout))((views, texts), scales)
    return _weighted(weights, terms), terms


def _forward(rule: Rule, weights: tuple[float, ...], layout: Layout, views, texts, scales: Scales):
    differentiate = layout.on_devices(functools.partial(_differentiate, rule, weights, layout))
    gradients, (terms, d_scales) = differentiate((views, texts), scales)
    return (_weighted(weights, terms), terms), (gradients, d_scales)


def _backward(rule: Rule, weights: tuple[float, ...], layout: Layout, residuals, cotangents):
    (d_views, d_texts), d_scales = residuals
    return jax.tree.map(
        lambda gradient: (cotangents[0] * gradient).astype(gradient.dtype), (d_views, d_texts, d_scales)
    )


_base_loss.defvjp(_forward, _backward)


def _evaluate(rule: Rule, layout: Layout, embeddings, scales: Scales):
    """Returns the sum over this device's rows of each view's loss."""
    rows, columns = _cut(rule, layout, *embeddings, scales)

    def visit(row, column, losses, column_sums):
        return [sums + _pairs(rule, row, column, scales, k).losses for k, sums in enumerate(losses)], column_sums

    losses, _ = sweep(visit, layout, rows, columns, row_sums=_zeros_like_norms(rows, scales))
    return (), (_mean(losses, embeddings, layout),)


def _differentiate(rule: Rule, weights: tuple[float, ...], layout: Layout, embeddings, scales: Scales):
    """Returns this device's gradients of the weighted sum, and the same sums as `_evaluate` with those of scales."""
    views, texts = embeddings
    rows, columns = _cut(rule, layout, views, texts, scales)
    batch = len(texts) * layout.devices

    def visit(row, column, row_sums, d_text):
        added = []
        for k, (losses, d_scale, d_bias, d_view) in enumerate(row_sums):
            pairs = _pairs(rule, row, column, scales, k)
            slopes = (weights[k] / batch) * pairs.slopes
            scaled = jnp.exp(scales.logit_scale[k]) * slopes
            d_view += through_normalization(
                mix(scaled * column["inverse"], column["text"]), row["views"][k], row["inverse"][k]
            )
            d_text += through_normalization(
                mix_transposed(scaled * row["inverse"][k][:, None], row["views"][k]), column["text"], column["inverse"]
            )
            d_scale += jnp.sum(scaled * pairs.cosines, axis=1)
            added.append((losses + pairs.losses, d_scale, d_bias + jnp.sum(slopes, axis=1), d_view))
        return added, d_text

    zeros = _zeros_like_norms(rows, scales)
    row_sums, d_text = sweep(
        visit,
        layout,
        rows,
        columns,
        row_sums=[(zero, zero, zero, _zeros_like(rows["views"][k])) for k, zero in enumerate(zeros)],
        column_sums=_zeros_like(columns["text"]),
    )
    losses, d_scale, d_bias, d_views = zip(*row_sums, strict=True)
    d_views, d_text = jax.tree.map(
        lambda blocks, raw: join(blocks, len(raw)).astype(raw.dtype), (d_views, d_text), (views, texts)
    )
    total = [jnp.stack([jnp.sum(part) for part in parts]) for parts in (d_scale, d_bias)]
    d_scales = Scales(total[0], total[1] if rule.biased else jnp.zeros_like(total[1]))
    return (d_views, d_text), (_mean(losses, embeddings, layout), d_scales)


def _weighted(weights: tuple[float, ...], terms: jax.Array) -> jax.Array:
    return jnp.sum(jnp.asarray(weights, jnp.float32) * terms)


class _Pairs(NamedTuple):
    """Cosines and derivatives by the logits `[rows, columns]` of a block, and the rows' losses `[rows]`."""

    cosines: jax.Array
    slopes: jax.Array
    losses: jax.Array


def _pairs(rule: Rule, row: dict, column: dict, scales: Scales, k: int) -> _Pairs:
    cosines, logits = _logits(rule, row, column, scales, k)
    matched = row["index"][:, None] == column["index"]
    losses, slopes = rule.block(logits, matched, row["statistics"][k], column["statistics"][k])
    valid = _valid(row, column)
    return _Pairs(cosines, jnp.where(valid, slopes, 0.0), jnp.sum(jnp.where(valid, losses, 0.0), axis=1))


def _logits(rule: Rule, row: dict, column: dict, scales: Scales, k: int) -> tuple[jax.Array, jax.Array]:
    cosines = pairwise(row["views"][k], column["text"]) * row["inverse"][k][:, None] * column["inverse"]
    logits = jnp.exp(scales.logit_scale[k]) * cosines
    return cosines, logits + scales.logit_bias[k] if rule.biased else logits


def _valid(row: dict, column: dict) -> jax.Array:
    return (row["index"] >= 0)[:, None] & (column["index"] >= 0)


def _cut(rule: Rule, layout: Layout, views, texts, scales: Scales) -> tuple[dict, dict]:
    """Returns the blocks of this device's images and texts: operands, inverse norms, and the rule's statistics."""
    operands = [view.astype(layout.dtype) for view in views]
    rows = layout.cut({"views": operands, "inverse": [inverse_norms(view) for view in views]})
    columns = layout.cut({"text": texts.astype(layout.dtype), "inverse": inverse_norms(texts)})
    rows["statistics"] = columns["statistics"] = [None] * len(views)
    if rule.statistics is not None:
        logits = [functools.partial(_logits, rule, scales=scales, k=k) for k in range(len(views))]
        found = [rule.statistics(logits_of, layout, rows, columns) for logits_of in logits]
        rows["statistics"], columns["statistics"] = zip(*found, strict=True)
    return rows, columns


def _zeros_like(blocks: jax.Array) -> jax.Array:
    return jnp.zeros(blocks.shape, jnp.float32)


def _zeros_like_norms(rows: dict, scales: Scales) -> list[jax.Array]:
    return [_zeros_like(rows["inverse"][k]) for k in range(len(scales.logit_scale))]


def _mean(losses, embeddings, layout: Layout) -> jax.Array:
    """Returns this device's part of the mean over images `[views]`."""
    return jnp.stack([jnp.sum(loss) for loss in losses]) / (len(embeddings[1]) * layout.devices)


def _sigmoid_block(logits: jax.Array, matched: jax.Array, *_: None) -> tuple[jax.Array, jax.Array]:
    wrong = jnp.where(matched, -logits, logits)
    small = jnp.exp(-jnp.abs(wrong))  # serves both softplus(wrong) and its derivative, the sigmoid
    sigmoid = jnp.where(wrong > 0, 1.0, small) / (1.0 + small)
    return jnp.maximum(wrong, 0.0) + jnp.log1p(small), jnp.where(matched, -sigmoid, sigmoid)


def _softmax_block(logits: jax.Array, matched: jax.Array, row: jax.Array, column: jax.Array):
    losses = jnp.where(matched, (row[:, None] + column) / 2 - logits, 0.0)
    return losses, (jnp.exp(logits - row[:, None]) + jnp.exp(logits - column)) / 2 - matched


def _log_sum_exps(logits_of: Callable, layout: Layout, rows: dict, columns: dict) -> tuple[jax.Array, jax.Array]:
    """Returns log Σ exp of the logits of each row over all columns, and of each column over all rows, in blocks."""

    def visit(row, column, row_sum, column_sum):
        logits = jnp.where(_valid(row, column), logits_of(row, column)[1], -jnp.inf)
        row_sum = jnp.logaddexp(row_sum, jax.nn.logsumexp(logits, axis=1))
        return row_sum, jnp.logaddexp(column_sum, jax.nn.logsumexp(logits, axis=0))

    none = [jnp.full(blocks["index"].shape, -jnp.inf) for blocks in (rows, columns)]
    merge = functools.partial(jax.nn.logsumexp, axis=0)
    return sweep(visit, layout, rows, columns, row_sums=none[0], column_sums=none[1], merge=merge)


RULES: dict[str, Rule] = {
    "sigmoid": Rule(_sigmoid_block, biased=True, products=3),
    "softmax": Rule(_softmax_block, biased=False, products=4, statistics=_log_sum_exps),
}

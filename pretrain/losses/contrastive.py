"""The contrastive base losses, sigmoid and softmax, over all pairs of the global batch with memory linear in it.

`reference.py` defines the losses. Here they are computed block by block. Several views of the images (their own
embeddings, the contextualised ones) are compared with the same texts in one sweep. The gradient is computed in the
forward pass, while the logits of a block are at hand: this takes three matrix products per pair, against four if the
backward pass computed the logits again.

Notation: x, t are image and text embeddings `[batch, dim]` scaled to length 1, scale = exp(logit_scale).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from foundation.deprecation import warn_renamed
from pretrain.losses.equal_texts import EqualTexts
from pretrain.losses.pairwise_blocks import (
    BlockLayout,
    inverse_norms,
    join,
    mix,
    mix_transposed,
    normalize_vjp,
    pairwise,
    sweep,
)


class BaseLoss(NamedTuple):
    """The weighted sum of the losses of all views, and the loss of each view `[views]`, which has no gradient."""

    value: jax.Array
    terms: jax.Array


class Scales(NamedTuple):
    """The learnable scalars of each view, `[views]`: the logarithm of the logit scale, and the bias."""

    logit_scale: jax.Array
    logit_bias: jax.Array


class PairwiseLoss(NamedTuple):
    """A contrastive loss, defined on the pairs of a block.

    block: `block(logits, matched, row_statistics, column_statistics)` returns, for the pairs of a block
        `[rows, columns]`, their contribution to the loss of their image and its derivative with respect to the logits.
        `matched` is True for positive pairs: the diagonal and, if they are positive, equal texts.
    biased: whether the logits have a bias.
    products: number of matrix products over all pairs that the loss and its gradients take.
    statistics: a first sweep that computes arrays with a value per row and per column; None if the loss needs none.
    max_logit_scale: default limit of the logit scale; 0 for none.
    """

    block: Callable[..., tuple[jax.Array, jax.Array]]
    biased: bool
    products: int
    statistics: Callable | None = None
    max_logit_scale: float = 0.0


class Inputs(NamedTuple):
    """Raw embeddings of the images in several views and of the texts, `[batch, dim]` each, and texts that are equal."""

    views: tuple[jax.Array, ...]
    texts: jax.Array
    equal_texts: EqualTexts


def base_loss(
    name: str,
    views: tuple[jax.Array, ...],
    texts: jax.Array,
    scales: Scales,
    *,
    weights: Sequence[jax.typing.ArrayLike] = (1.0,),
    layout: BlockLayout | None = None,
    equal_texts: EqualTexts | None = None,
) -> BaseLoss:
    """Return Σ_k weights[k] · loss(views[k], texts; scales[k]) of raw embeddings `[batch, dim]`, in float32.

    sigmoid: −(1/B) Σ_i Σ_j log σ(z_ij (scale x_i·t_j + bias)), z = +1 on the diagonal and −1 elsewhere (SigLIP,
    arXiv 2303.15343, algorithm 1).
    softmax: the mean of the cross-entropies of the rows and of the columns of scale x_i·t_j (CLIP, arXiv 2103.00020,
    figure 3); the bias has no effect.

    `equal_texts` says which pairs are positive in addition to the diagonal, or left out. With several positives the
    target of softmax is uniform over those of a row, and of a column (UniCL, arXiv 2204.03610).
    """
    inputs = Inputs(views, texts, equal_texts or EqualTexts())
    weights = jnp.asarray(weights, jnp.float32)
    return BaseLoss(*_base_loss(PAIRWISE_LOSSES[name], layout or BlockLayout(), inputs, scales, weights))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _base_loss(loss: PairwiseLoss, layout: BlockLayout, inputs: Inputs, scales: Scales, weights: jax.Array):
    _, (terms,) = layout.on_devices(functools.partial(_evaluate, loss, layout))(inputs, scales)
    return jnp.sum(weights * terms), terms


def _forward(loss: PairwiseLoss, layout: BlockLayout, inputs: Inputs, scales: Scales, weights: jax.Array):
    differentiate = layout.on_devices(functools.partial(_differentiate, loss, layout))
    gradients, (terms, d_scales) = differentiate(inputs, (scales, weights))
    return (jnp.sum(weights * terms), terms), (gradients, d_scales, terms)


def _backward(loss: PairwiseLoss, layout: BlockLayout, residuals, cotangents):
    (d_views, d_texts), d_scales, d_weights = jax.tree.map(
        lambda gradient: (cotangents[0] * gradient).astype(gradient.dtype), residuals
    )
    return Inputs(d_views, d_texts, None), d_scales, d_weights


_base_loss.defvjp(_forward, _backward)


# The loss alone


def _evaluate(loss: PairwiseLoss, layout: BlockLayout, inputs: Inputs, scales: Scales):
    """Return this device's contribution to the loss of each view."""
    rows, columns = _split(loss, layout, inputs, scales)
    visit = functools.partial(_evaluate_block, loss, scales)
    losses, _ = sweep(visit, layout, rows, columns, name="contrastive", row_sums=_zeros_per_row(rows, scales))
    return (), (_mean(losses, inputs, layout),)


def _evaluate_block(loss: PairwiseLoss, scales: Scales, row: dict, column: dict, losses: list, column_sums: Any):
    return [sums + _pairs(loss, row, column, scales, k).losses for k, sums in enumerate(losses)], column_sums


# The loss with its gradients


class _RowSums(NamedTuple):
    """Sums over the columns of each row: of a view's loss, and of its gradients."""

    losses: jax.Array
    d_scale: jax.Array
    d_bias: jax.Array
    d_view: jax.Array


def _differentiate(loss: PairwiseLoss, layout: BlockLayout, inputs: Inputs, scalars: tuple[Scales, jax.Array]):
    """Return the gradients of the weighted sum by this device's embeddings, and its contribution to other results."""
    (views, texts, _), (scales, weights) = inputs, scalars
    rows, columns = _split(loss, layout, inputs, scales)
    factors = weights / (len(texts) * layout.devices)
    zeros = _zeros_per_row(rows, scales)
    row_sums, d_text = sweep(
        functools.partial(_differentiate_block, loss, factors, scales),
        layout,
        rows,
        columns,
        name="contrastive",
        row_sums=[_RowSums(zero, zero, zero, _zeros_like(rows["views"][k])) for k, zero in enumerate(zeros)],
        column_sums=_zeros_like(columns["text"]),
    )
    losses, d_scale, d_bias, d_views = zip(*row_sums, strict=True)
    d_views, d_text = jax.tree.map(
        lambda blocks, raw: join(blocks, len(raw)).astype(raw.dtype), (d_views, d_text), (views, texts)
    )
    total = [jnp.stack([jnp.sum(part) for part in parts]) for parts in (d_scale, d_bias)]
    d_scales = Scales(total[0], total[1] if loss.biased else jnp.zeros_like(total[1]))
    return (d_views, d_text), (_mean(losses, inputs, layout), d_scales)


def _differentiate_block(
    loss: PairwiseLoss, factors: jax.Array, scales: Scales, row: dict, column: dict, row_sums: list, d_text: jax.Array
):
    """Add the loss and the gradients of a block of pairs to the sums; `factors` are the views' weights per image."""
    added = []
    for k, (losses, d_scale, d_bias, d_view) in enumerate(row_sums):
        pairs = _pairs(loss, row, column, scales, k)
        d_logits = factors[k] * pairs.slopes
        d_cosines = jnp.exp(scales.logit_scale[k]) * d_logits
        d_x = mix(d_cosines * column["inverse"], column["text"])
        d_view += normalize_vjp(d_x, row["views"][k], row["inverse"][k])
        d_t = mix_transposed(d_cosines * row["inverse"][k][:, None], row["views"][k])
        d_text += normalize_vjp(d_t, column["text"], column["inverse"])
        d_scale += jnp.sum(d_cosines * pairs.cosines, axis=1)
        added.append(_RowSums(losses + pairs.losses, d_scale, d_bias + jnp.sum(d_logits, axis=1), d_view))
    return added, d_text


# The pairs of one block


class _Pairs(NamedTuple):
    """Cosines and derivatives by the logits `[rows, columns]` of a block, and the losses of its rows `[rows]`."""

    cosines: jax.Array
    slopes: jax.Array
    losses: jax.Array


def _pairs(loss: PairwiseLoss, row: dict, column: dict, scales: Scales, k: int) -> _Pairs:
    cosines, logits = _logits(loss, row, column, scales, k)
    losses, slopes = loss.block(logits, _matched(row, column), row["statistics"][k], column["statistics"][k])
    valid = _valid(row, column)
    return _Pairs(cosines, jnp.where(valid, slopes, 0.0), jnp.sum(jnp.where(valid, losses, 0.0), axis=1))


def _logits(loss: PairwiseLoss, row: dict, column: dict, scales: Scales, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the cosines and the logits of a block for view k."""
    cosines = pairwise(row["views"][k], column["text"]) * row["inverse"][k][:, None] * column["inverse"]
    logits = jnp.exp(scales.logit_scale[k]) * cosines
    return cosines, logits + scales.logit_bias[k] if loss.biased else logits


def _matched(row: dict, column: dict) -> jax.Array:
    """Return which pairs of a block are positive."""
    row_id, column_id = (
        block["index"] if block["equal_texts"].positive is None else block["equal_texts"].positive
        for block in (row, column)
    )
    return row_id[:, None] == column_id


def _valid(row: dict, column: dict) -> jax.Array:
    """Return which pairs of a block count: neither padding nor left out."""
    valid = (row["index"] >= 0)[:, None] & (column["index"] >= 0)
    if row["equal_texts"].ignored is not None:
        valid &= (row["equal_texts"].ignored[:, None] != column["equal_texts"].ignored) | _matched(row, column)
    return valid


def _split(loss: PairwiseLoss, layout: BlockLayout, inputs: Inputs, scales: Scales) -> tuple[dict, dict]:
    """Return the blocks of this device's images and texts: operands, inverse norms, and statistics of the loss."""
    views, texts, equal = inputs
    operands = [view.astype(layout.dtype) for view in views]
    inverse = [inverse_norms(view) for view in views]
    rows = layout.split({"views": operands, "inverse": inverse, "equal_texts": equal})
    columns = {"text": texts.astype(layout.dtype), "inverse": inverse_norms(texts)}
    columns = layout.split(columns | {"equal_texts": equal._replace(share=None)})
    rows["statistics"] = columns["statistics"] = [None] * len(views)
    if loss.statistics is not None:
        logits = [functools.partial(_logits, loss, scales=scales, k=k) for k in range(len(views))]
        found = [loss.statistics(logits_of, layout, rows, columns) for logits_of in logits]
        rows["statistics"], columns["statistics"] = zip(*found, strict=True)
    return rows, columns


def _zeros_like(blocks: jax.Array) -> jax.Array:
    return jnp.zeros(blocks.shape, jnp.float32)


def _zeros_per_row(rows: dict, scales: Scales) -> list[jax.Array]:
    return [_zeros_like(rows["inverse"][k]) for k in range(len(scales.logit_scale))]


def _mean(losses, inputs: Inputs, layout: BlockLayout) -> jax.Array:
    """Return this device's part of the mean over images `[views]`."""
    return jnp.stack([jnp.sum(loss) for loss in losses]) / (len(inputs.texts) * layout.devices)


# The losses


def _sigmoid_block(logits: jax.Array, matched: jax.Array, *_: None) -> tuple[jax.Array, jax.Array]:
    """Return softplus(∓logits) and its derivative, for matched pairs and for others."""
    signed = jnp.where(matched, -logits, logits)
    small = jnp.exp(-jnp.abs(signed))  # for softplus(signed) and for its derivative, the sigmoid
    sigmoid = jnp.where(signed > 0, 1.0, small) / (1.0 + small)
    return jnp.maximum(signed, 0.0) + jnp.log1p(small), jnp.where(matched, -sigmoid, sigmoid)


class _SoftmaxStatistics(NamedTuple):
    """log Σ exp of the logits of each row or column, and the target of each positive of a row, None for 1."""

    log_sum_exp: jax.Array
    target: jax.Array | None = None


def _softmax_block(logits: jax.Array, matched: jax.Array, row: _SoftmaxStatistics, column: _SoftmaxStatistics):
    """Return the cross-entropies of matched pairs, weighted by their targets, and the derivative.

    Matched images and texts have the same number of positives, so a pair has one target for its row and its column.
    """
    of_row, of_column = row.log_sum_exp, column.log_sum_exp
    losses = jnp.where(matched, (of_row[:, None] + of_column) / 2 - logits, 0.0)
    probabilities = (jnp.exp(logits - of_row[:, None]) + jnp.exp(logits - of_column)) / 2
    if row.target is None:
        return losses, probabilities - matched
    target = row.target[:, None]
    return losses * target, probabilities - jnp.where(matched, target, 0.0)


def _softmax_statistics(logits_of: Callable, layout: BlockLayout, rows: dict, columns: dict):
    """Return the statistics of the rows and of the columns, in blocks."""
    of_rows, of_columns = _log_sum_exps(logits_of, layout, rows, columns)
    return _SoftmaxStatistics(of_rows, rows["equal_texts"].share), _SoftmaxStatistics(of_columns)


def _log_sum_exps(logits_of: Callable, layout: BlockLayout, rows: dict, columns: dict) -> tuple[jax.Array, jax.Array]:
    """Return log Σ exp of the logits of each row over all columns, and of each column over all rows, in blocks."""
    empty = [jnp.full(blocks["index"].shape, -jnp.inf) for blocks in (rows, columns)]
    visit = functools.partial(_log_sum_exps_block, logits_of)
    merge = functools.partial(jax.nn.logsumexp, axis=0)
    sums = {"row_sums": empty[0], "column_sums": empty[1], "merge": merge}
    return sweep(visit, layout, rows, columns, name="softmax_statistics", **sums)


def _log_sum_exps_block(logits_of: Callable, row: dict, column: dict, row_sum: jax.Array, column_sum: jax.Array):
    logits = jnp.where(_valid(row, column), logits_of(row, column)[1], -jnp.inf)
    row_sum = jnp.logaddexp(row_sum, jax.nn.logsumexp(logits, axis=1))
    return row_sum, jnp.logaddexp(column_sum, jax.nn.logsumexp(logits, axis=0))


PAIRWISE_LOSSES: dict[str, PairwiseLoss] = {
    "sigmoid": PairwiseLoss(_sigmoid_block, biased=True, products=3),
    "softmax": PairwiseLoss(
        _softmax_block, biased=False, products=4, statistics=_softmax_statistics, max_logit_scale=100.0
    ),
}

_RENAMED = {"Rule": "PairwiseLoss", "RULES": "PAIRWISE_LOSSES"}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"{__name__}.{name}", f"{__name__}.{_RENAMED[name]}")
    return globals()[_RENAMED[name]]

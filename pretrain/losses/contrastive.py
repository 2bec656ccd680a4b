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
    update_blocks,
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
    losses, _ = sweep(visit, layout, rows, columns, name="contrastive", row_sums=_zeros_per_row(rows))
    return (), (_mean(losses, inputs, layout),)


def _evaluate_block(loss: PairwiseLoss, scales: Scales, row: dict, column: dict, losses: list, column_sums: Any):
    return losses + _pairs(loss, row, column, scales).losses, column_sums


# The loss with its gradients


class _RowSums(NamedTuple):
    """Sums over the columns of each row: `[views, rows]`, and one `[rows, dim]` per view.

    They are of the loss, of its derivatives by the logits (slopes), of slopes times cosines, and of slopes times texts
    of length 1.
    """

    losses: jax.Array
    slopes: jax.Array
    slopes_cosines: jax.Array
    slopes_texts: list[jax.Array]


def _differentiate(loss: PairwiseLoss, layout: BlockLayout, inputs: Inputs, scalars: tuple[Scales, jax.Array]):
    """Return the gradients of the weighted sum by this device's embeddings, and its contribution to other results."""
    (views, texts, _), (scales, weights) = inputs, scalars
    rows, columns = _split(loss, layout, inputs, scales)
    factors = weights / (len(texts) * layout.devices)  # of a view's losses
    cosine_factors = factors * jnp.exp(scales.logit_scale)
    zero = _zeros_per_row(rows)
    sums, d_text = sweep(
        functools.partial(_differentiate_block, loss, cosine_factors, scales),
        layout,
        rows,
        columns,
        name="contrastive",
        row_sums=_RowSums(zero, zero, zero, [_zeros_like(view) for view in rows["views"]]),
        column_sums=_zeros_like(columns["text"]),
    )

    d_views = tuple(
        _by_raw(summed, factor, *of_view, raw)
        for summed, factor, *of_view, raw in zip(
            sums.slopes_texts, cosine_factors, rows["views"], rows["inverse"], views, strict=True
        )
    )
    d_text = _by_raw(d_text, jnp.float32(1), columns["text"], columns["inverse"], texts)
    d_scale = cosine_factors * jnp.sum(sums.slopes_cosines, axis=(0, 2))
    d_bias = factors * jnp.sum(sums.slopes, axis=(0, 2))
    d_scales = Scales(d_scale, d_bias if loss.biased else jnp.zeros_like(d_bias))
    return (d_views, d_text), (_mean(sums.losses, inputs, layout), d_scales)


def _by_raw(
    gradient: jax.Array, factor: jax.Array, embeddings: jax.Array, inverse: jax.Array, raw: jax.Array
) -> jax.Array:
    """Return the gradient `[rows, dim]` by raw embeddings: `factor` times that by embeddings of length 1, in blocks."""

    def update(gradient: jax.Array, of_block: tuple[jax.Array, jax.Array]) -> jax.Array:
        return normalize_vjp(factor * gradient, *of_block)

    return join(update_blocks(update, gradient, (embeddings, inverse)), len(raw)).astype(raw.dtype)


def _differentiate_block(
    loss: PairwiseLoss,
    cosine_factors: jax.Array,
    scales: Scales,
    row: dict,
    column: dict,
    sums: _RowSums,
    d_text: jax.Array,
):
    """Add the loss and the gradients of a block of pairs to the sums.

    The gradient by an embedding of length 1 is `cosine_factors[view]` Σ slopes · embedding of length 1. One array of
    slopes, rounded once, serves both sides.
    """
    pairs = _pairs(loss, row, column, scales)
    slopes = pairs.slopes.astype(column["text"].dtype)
    by_view = mix(slopes, _scaled(column["text"], column["inverse"]))
    row_scales = cosine_factors[:, None] * jnp.stack(row["inverse"])
    d_text += mix_transposed(slopes, _scaled(jnp.stack(row["views"]), row_scales))
    added = _RowSums(
        losses=sums.losses + pairs.losses,
        slopes=sums.slopes + jnp.sum(pairs.slopes, axis=2),
        slopes_cosines=sums.slopes_cosines + jnp.sum(pairs.slopes * pairs.cosines, axis=2),
        slopes_texts=[summed + by_view[k] for k, summed in enumerate(sums.slopes_texts)],
    )
    return added, d_text


def _scaled(embeddings: jax.Array, factors: jax.Array) -> jax.Array:
    """Return embeddings `[..., dim]` times factors `[...]`, rounded to their dtype."""
    return (embeddings.astype(jnp.float32) * factors[..., None]).astype(embeddings.dtype)


# The pairs of one block


class _Pairs(NamedTuple):
    """Cosines and derivatives by the logits `[views, rows, columns]` of a block, and losses of rows `[views, rows]`."""

    cosines: jax.Array
    slopes: jax.Array
    losses: jax.Array


def _pairs(loss: PairwiseLoss, row: dict, column: dict, scales: Scales) -> _Pairs:
    """Return the pairs of a block in all views, whose logits are one matrix product."""
    cosines, logits = _logits(loss, jnp.stack(row["views"]), jnp.stack(row["inverse"]), column, scales)
    row_statistics, column_statistics = (
        jax.tree.map(lambda *views: jnp.stack(views), *block["statistics"]) for block in (row, column)
    )
    of_views = jax.vmap(loss.block, in_axes=(0, None, 0, 0))
    losses, slopes = of_views(logits, _matched(row, column), row_statistics, column_statistics)
    valid = _valid(row, column)
    return _Pairs(cosines, jnp.where(valid, slopes, 0.0), jnp.sum(jnp.where(valid, losses, 0.0), axis=2))


def _logits(
    loss: PairwiseLoss, x: jax.Array, inverse: jax.Array, column: dict, scales: Scales
) -> tuple[jax.Array, jax.Array]:
    """Return the cosines and the logits `[..., rows, columns]` of images `[..., rows, dim]` and a block of texts.

    `inverse` are the images' inverse norms `[..., rows]`; the scales are `[...]`.
    """
    cosines = pairwise(x, column["text"]) * inverse[..., None] * column["inverse"]
    logits = jnp.exp(scales.logit_scale)[..., None, None] * cosines
    return cosines, logits + scales.logit_bias[..., None, None] if loss.biased else logits


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
        logits = [functools.partial(_view_logits, loss, scales, k) for k in range(len(views))]
        found = [loss.statistics(logits_of, layout, rows, columns) for logits_of in logits]
        rows["statistics"], columns["statistics"] = zip(*found, strict=True)
    return rows, columns


def _view_logits(loss: PairwiseLoss, scales: Scales, k: int, row: dict, column: dict) -> tuple[jax.Array, jax.Array]:
    """Return the cosines and the logits `[rows, columns]` of a block for view k."""
    of_view = Scales(*(scalars[k] for scalars in scales))
    return _logits(loss, row["views"][k], row["inverse"][k], column, of_view)


def _zeros_like(blocks: jax.Array) -> jax.Array:
    return jnp.zeros(blocks.shape, jnp.float32)


def _zeros_per_row(rows: dict) -> jax.Array:
    """Return zeros `[blocks, views, rows]`."""
    return jnp.zeros_like(jnp.stack(rows["inverse"], axis=1))


def _mean(losses: jax.Array, inputs: Inputs, layout: BlockLayout) -> jax.Array:
    """Return this device's part of the mean over images `[views]`, from losses `[blocks, views, rows]`."""
    return jnp.sum(losses, axis=(0, 2)) / (len(inputs.texts) * layout.devices)


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

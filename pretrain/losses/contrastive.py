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
from pretrain.losses import pair_kernel
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
from pretrain.losses.pairwise_losses import PAIRWISE_LOSSES, PairwiseLoss, matched_pairs, valid_pairs


class BaseLoss(NamedTuple):
    """The weighted sum of the losses of all views, and the loss of each view `[views]`, which has no gradient."""

    value: jax.Array
    terms: jax.Array


class Scales(NamedTuple):
    """The learnable scalars of each view, `[views]`: the logarithm of the logit scale, and the bias."""

    logit_scale: jax.Array
    logit_bias: jax.Array


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
    weights, layout = jnp.asarray(weights, jnp.float32), layout or BlockLayout()
    if layout.implementation != "xla":
        layout = pair_kernel.layout_for_kernel(layout, len(texts))
    return BaseLoss(*_base_loss(PAIRWISE_LOSSES[name], layout, inputs, scales, weights))


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
    visit = functools.partial(_visit(layout, _evaluate_block, pair_kernel.evaluate_block), loss, scales)
    losses, _ = sweep(visit, layout, rows, columns, name="contrastive", row_sums=_zeros_per_row(rows))
    return (), (_mean(losses, inputs, layout),)


def _evaluate_block(loss: PairwiseLoss, scales: Scales, row: dict, column: dict, losses: list, column_sums: Any):
    return losses + _pairs(loss, row, column, scales).losses, column_sums


# The loss with its gradients


class _RowSums(NamedTuple):
    """Sums over the columns of each row.

    scalars: of the loss, of its derivatives by the logits (slopes), and of slopes times cosines, `[views, rows, 3]`.
    texts: of slopes times texts of length 1, `[rows, dim]` per view.
    """

    scalars: jax.Array
    texts: list[jax.Array]


def _differentiate(loss: PairwiseLoss, layout: BlockLayout, inputs: Inputs, scalars: tuple[Scales, jax.Array]):
    """Return the gradients of the weighted sum by this device's embeddings, and its contribution to other results."""
    (views, texts, _), (scales, weights) = inputs, scalars
    rows, columns = _split(loss, layout, inputs, scales)
    factors = weights / (len(texts) * layout.devices)  # of a view's losses
    cosine_factors = factors * jnp.exp(scales.logit_scale)
    visit = _visit(layout, _differentiate_block, pair_kernel.differentiate_block)
    sums, d_text = sweep(
        functools.partial(visit, loss, cosine_factors, scales),
        layout,
        rows,
        columns,
        name="contrastive",
        row_sums=_RowSums(jnp.zeros((*_zeros_per_row(rows).shape, 3)), [_zeros_like(view) for view in rows["views"]]),
        column_sums=_zeros_like(columns["text"]),
    )

    d_views = tuple(
        _by_raw(summed, factor, *of_view, raw)
        for summed, factor, *of_view, raw in zip(
            sums.texts, cosine_factors, rows["views"], rows["inverse"], views, strict=True
        )
    )
    d_text = _by_raw(d_text, jnp.float32(1), columns["text"], columns["inverse"], texts)
    losses, slopes, slopes_cosines = jnp.moveaxis(sums.scalars, -1, 0)
    d_scale = cosine_factors * jnp.sum(slopes_cosines, axis=(0, 2))
    d_bias = factors * jnp.sum(slopes, axis=(0, 2))
    d_scales = Scales(d_scale, d_bias if loss.biased else jnp.zeros_like(d_bias))
    return (d_views, d_text), (_mean(losses, inputs, layout), d_scales)


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
    scalars = (pairs.losses, jnp.sum(pairs.slopes, axis=2), jnp.sum(pairs.slopes * pairs.cosines, axis=2))
    scalars = sums.scalars + jnp.stack(scalars, axis=-1)
    return _RowSums(scalars, [summed + by_view[k] for k, summed in enumerate(sums.texts)]), d_text


def _scaled(embeddings: jax.Array, factors: jax.Array) -> jax.Array:
    """Return embeddings `[..., dim]` times factors `[...]`, rounded to their dtype."""
    return (embeddings.astype(jnp.float32) * factors[..., None]).astype(embeddings.dtype)


# The pairs of one block


def _visit(layout: BlockLayout, xla: Callable, pallas: Callable) -> Callable:
    """Return the implementation of a visit that the layout asks for."""
    return xla if layout.implementation == "xla" else functools.partial(pallas, layout)


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
    losses, slopes = of_views(logits, matched_pairs(row, column), row_statistics, column_statistics)
    valid = valid_pairs(row, column)
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


_RENAMED = {"Rule": "PairwiseLoss", "RULES": "PAIRWISE_LOSSES"}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"{__name__}.{name}", f"{__name__}.{_RENAMED[name]}")
    return globals()[_RENAMED[name]]

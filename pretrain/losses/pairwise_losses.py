"""The contrastive base losses as functions of the logits of a block of pairs. `reference.py` defines them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrain.losses.pairwise_blocks import BlockLayout, sweep


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


def matched_pairs(row: dict, column: dict) -> jax.Array:
    """Return which pairs of a block are positive."""
    row_id, column_id = (
        block["index"] if block["equal_texts"].positive is None else block["equal_texts"].positive
        for block in (row, column)
    )
    return row_id[:, None] == column_id


def valid_pairs(row: dict, column: dict) -> jax.Array:
    """Return which pairs of a block count: neither padding nor left out."""
    valid = (row["index"] >= 0)[:, None] & (column["index"] >= 0)
    if row["equal_texts"].ignored is not None:
        valid &= (row["equal_texts"].ignored[:, None] != column["equal_texts"].ignored) | matched_pairs(row, column)
    return valid


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
    logits = jnp.where(valid_pairs(row, column), logits_of(row, column)[1], -jnp.inf)
    row_sum = jnp.logaddexp(row_sum, jax.nn.logsumexp(logits, axis=1))
    return row_sum, jnp.logaddexp(column_sum, jax.nn.logsumexp(logits, axis=0))


PAIRWISE_LOSSES: dict[str, PairwiseLoss] = {
    "sigmoid": PairwiseLoss(_sigmoid_block, biased=True, products=3),
    "softmax": PairwiseLoss(
        _softmax_block, biased=False, products=4, statistics=_softmax_statistics, max_logit_scale=100.0
    ),
}

"""All cases of a task by one method, in as few compiled programs as their sizes allow."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.base import Adapter
from adapt.adapters.ops import normalize
from adapt.adapters.support import Support
from adapt.model_selection.hyperparameters import Grid

_ROWS = 256  # supports up to this many rows share one program,
_PADDING = 1.6  # and so do larger ones that are at most that many times smaller than the largest of them
_QUERIES = 256  # queries are padded to a power of two of at least this many, from 4,096 on to multiples of 4,096


class Outcome(NamedTuple):
    """Of each case the number of the chosen setting `[cases]`, and of each query the class `[cases, queries]`."""

    chosen: np.ndarray
    predictions: np.ndarray


def run_grid(
    method: str,
    supports: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    texts: np.ndarray,
    queries: np.ndarray,
    groups: np.ndarray,
    masks: np.ndarray,
    *,
    logit_scale: float,
) -> Outcome:
    """Fits a method to each support with the setting that leaving out examples of it favours, and classifies queries.

    `supports` are raw features `[n, dim]` of each case, of any length, with `labels` `[n]`; `texts` `[classes, dim]`;
    `queries` `[queries, dim]`, each of which is told among the classes of `masks[groups[i]]`, `[groups, classes]`.
    """
    chosen = np.zeros(len(supports), np.int32)
    predictions = np.zeros((len(supports), len(queries)), np.int32)
    count = len(queries)
    padded = _padded(count)
    queries = np.pad(queries, [(0, padded - count), (0, 0)])
    groups = np.pad(groups, (0, padded - count))
    for numbers, rows in _buckets([len(case) for case in labels]):
        features = np.zeros((len(numbers), rows, texts.shape[1]), np.float32)
        marks = np.full((len(numbers), rows), -1, np.int32)
        for place, number in enumerate(numbers):
            features[place, : len(labels[number])] = supports[number]
            marks[place, : len(labels[number])] = labels[number]
        found = _run(method, features, marks, texts, queries, groups, masks, np.float32(logit_scale))
        chosen[numbers] = found[0]
        predictions[numbers] = np.asarray(found[1])[:, :count]
    return Outcome(chosen, predictions)


def _buckets(sizes: Sequence[int]) -> list[tuple[list[int], int]]:
    """Returns the numbers of the cases that share a program, and its rows: sizes that are near enough are padded."""
    rows: list[int] = []
    for size in sorted({max(size, _ROWS) for size in sizes}, reverse=True):
        if not rows or size * _PADDING < rows[-1]:
            rows.append(size)
    found: dict[int, list[int]] = {}
    for number, size in enumerate(sizes):
        found.setdefault(min(row for row in rows if row >= size), []).append(number)
    return [(numbers, size) for size, numbers in sorted(found.items())]


def _padded(count: int) -> int:
    step = 4096
    return max(_QUERIES, 1 << (count - 1).bit_length()) if count <= step else -(-count // step) * step


@functools.partial(jax.jit, static_argnums=0)
def _run(
    method: str,
    features: jax.Array,
    labels: jax.Array,
    texts: jax.Array,
    queries: jax.Array,
    groups: jax.Array,
    masks: jax.Array,
    logit_scale: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    options, key = Grid(method), jax.random.key(0)
    texts, queries = normalize(texts), normalize(queries)

    def one(case: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        support = Support(normalize(case[0]), case[1], texts, logit_scale, num_classes=len(texts))
        chosen, _ = options.choose(support, key=key)

        def classify(adapter: Adapter) -> jax.Array:
            logits = adapter.fit_support(support, key=key)(queries)
            return jnp.argmax(jnp.where(masks[groups], logits, -jnp.inf), axis=1).astype(jnp.int32)

        return chosen, options.apply(chosen, classify)

    return jax.lax.map(one, (features, labels))

"""Fit one method to all support sets of a task in as few compiled programs as their sizes allow."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.base import Adapter
from adapt.adapters.ops import normalize
from adapt.adapters.registry import create
from adapt.adapters.support import Support
from adapt.adapters.transductive.queries import Queries, TransductiveAdapter
from adapt.model_selection.hyperparameters import Grid

_ROWS = 256  # support sets of up to this many rows share one program,
_PADDING = 1.6  # so do larger ones that are at most this many times smaller than the largest among them,
_ENTRIES = 2**25  # and, for methods without training, any whose matrices [rows, rows] grow by this much in total
_QUERIES = 256  # queries are padded to multiples of at least this many and at most
_MOST_QUERIES = 4096  # this many, which add less than a quarter to more than 1,024 queries


class FewShotPredictions(NamedTuple):
    """The number of the chosen setting per support set `[sets]`, and the predicted classes `[sets, queries]`.

    `max_logits` `[sets, queries]` are the largest logits, and `log_odds` `[sets, queries]` is log(p / (1 − p)) of the
    largest softmax probability p, which orders queries as p does and does not round to 1; both are None unless asked
    for.
    """

    chosen: np.ndarray
    predictions: np.ndarray
    max_logits: np.ndarray | None = None
    log_odds: np.ndarray | None = None


def run_grid(
    method: str,
    supports: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    class_texts: np.ndarray | None,
    queries: np.ndarray,
    groups: np.ndarray,
    candidates: np.ndarray,
    logit_scale: float,
    counted: Sequence[np.ndarray] | None = None,
    with_scores: bool = False,
) -> FewShotPredictions:
    """Fit a method to each support set, with the setting that does best on held-out support, and classify the queries.

    `supports` are raw features `[n, dim]` per support set, of any lengths, with `labels` `[n]`; `class_texts` is
    `[classes, dim]` or None and `queries` `[queries, dim]`. Query i is classified among the classes where
    `candidates[groups[i]]` is true; `candidates` is `[groups, classes]`. With `with_scores`, `max_logits` and
    `log_odds` are returned, too.


    `counted` has a mask `[queries]` per support set of the queries that count, by default all. A transductive method
    classifies the queries of each group that count as a whole and sees no others, so that its predictions for the
    rest are meaningless.
    """
    chosen = np.zeros(len(supports), np.int32)
    predictions = np.zeros((len(supports), len(queries)), np.int32)
    scores = np.zeros((2 if with_scores else 0, *predictions.shape), np.float32)
    present = np.ones(predictions.shape, bool) if counted is None else np.stack(counted)
    entries = _ENTRIES if create(method).training_free else 0
    texts = None if class_texts is None else normalize(class_texts)
    together = np.zeros_like(groups) if not create(method).transductive else groups
    for number in np.unique(together):
        part = np.flatnonzero(together == number)
        padding = (0, _padded(len(part)) - len(part))
        part_queries = normalize(np.pad(queries[part], [padding, (0, 0)]))
        part_groups = np.pad(groups[part], padding)
        part_present = np.pad(present[:, part], [(0, 0), padding])
        for members, rows in _buckets([len(each) for each in labels], entries=entries).items():
            features = np.zeros((len(members), rows, queries.shape[1]), np.float32)
            padded_labels = np.full((len(members), rows), -1, np.int32)
            for place, case in enumerate(members):
                features[place, : len(labels[case])] = supports[case]
                padded_labels[place, : len(labels[case])] = labels[case]
            index = list(members)
            sets = normalize(features), padded_labels, part_present[index]
            options = part_queries, part_groups, candidates, np.float32(logit_scale)
            found = _run(method, with_scores, sets, texts, *options)
            chosen[index] = found[0]
            for target, each in zip((predictions, *scores), found[1:], strict=True):
                target[np.ix_(index, part)] = np.asarray(each)[:, : len(part)]
    return FewShotPredictions(chosen, predictions, *scores)


def _buckets(sizes: Sequence[int], *, entries: int) -> dict[tuple[int, ...], int]:
    """Return the numbers of the support sets that share a program, with the rows that all of them are padded to.

    A program takes about as long to compile as `entries` more entries in matrices `[rows, rows]` take to compute.
    """
    counts: dict[int, int] = {}
    for size in sorted((max(size, _ROWS) for size in sizes), reverse=True):
        shared = next((rows for rows in counts if size * _PADDING >= rows), size)
        counts[shared] = counts.get(shared, 0) + 1
    # best[i]: the least cost of the programs for the i smallest sizes, and the rows of these programs.
    ascending = sorted(counts.items())
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for number, (largest, _) in enumerate(ascending):
        total, options = 0, []
        for first in range(number, -1, -1):
            total += ascending[first][1]
            cost, rows = best[first]
            options.append((cost + entries + total * largest**2, (*rows, largest)))
        best.append(min(options))
    _, rows = best[-1]
    buckets: dict[int, list[int]] = {}
    for number, size in enumerate(sizes):
        buckets.setdefault(min(row for row in rows if row >= size), []).append(number)
    return {tuple(numbers): size for size, numbers in sorted(buckets.items())}


def _padded(count: int) -> int:
    step = min(max(_QUERIES, (1 << (count - 1).bit_length()) // 8), _MOST_QUERIES)
    return -(-count // step) * step


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
    method: str,
    with_scores: bool,
    sets: tuple[jax.Array, jax.Array, jax.Array],
    texts: jax.Array | None,
    queries: jax.Array,
    groups: jax.Array,
    masks: jax.Array,
    logit_scale: jax.Array,
) -> tuple[jax.Array, ...]:
    """Return the chosen settings `[sets]` and predictions `[sets, queries]`.

    All features have rows of length 1. `sets` are the support features `[sets, rows, dim]`, their labels
    `[sets, rows]`, and the queries that a transductive method may see, `[sets, queries]`. With `with_scores`, also the
    largest logits and the log odds of the largest probabilities, `[sets, queries]`.
    """
    options, key = Grid(method), jax.random.key(0)

    def one(case: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        features, labels, present = case
        support = Support(features, labels, texts, logit_scale, num_classes=masks.shape[1])
        chosen, _ = options.choose(support, key=key)

        def classify(adapter: Adapter) -> tuple[jax.Array, ...]:
            if isinstance(adapter, TransductiveAdapter):
                logits = adapter.query_logits(support, Queries(queries, present, masks[groups[0]]))
            else:
                logits = adapter.fit_support(support, key=key).unit_logits(queries)
            logits = jnp.where(masks[groups], logits, -jnp.inf)
            predicted = jnp.argmax(logits, axis=1).astype(jnp.int32)
            if not with_scores:
                return (predicted,)
            highest = logits.max(axis=1)
            others = jnp.where(jnp.arange(logits.shape[1]) == predicted[:, None], -jnp.inf, logits)
            return predicted, highest, highest - jax.nn.logsumexp(others, axis=1)

        return chosen, *options.apply(chosen, classify)

    return jax.lax.map(one, sets)

"""Estimate from a sample of pairs the share of wrong captions, and how much attention would meet companions.

A caption is *wrong* if it belongs to another image, drawn at random. Let x_i be standardised image features and t_i
centred text vectors, both of length 1.

**Wrong captions.** The consensus of the k nearest images of i, without i itself, is m_i = Σ_j w_ij t_j with weights
w_ij ∝ exp(x_i·x_j / 0.1). The p-value of caption i is the share of all captions c with m_i·c > m_i·t_i. Wrong captions
have uniform p-values; those of right ones are near 0 if similar images have similar captions. Only the quarter of the
images whose neighbours agree best, by Σ_{j≠k} w_ij w_ik t_j·t_k / (1 − Σ_j w_ij²), is used: i's own caption does not
enter this choice. There

- high = 2 P(p > 1/2), the share of uniform p-values (Storey, J. R. Statist. Soc. B 64, 2002), is an upper bound: right
  captions that agree with nothing count as wrong;
- low = high − [P(1/20 < p ≤ 1/2) − 9/20 high] − 0.08 (1 − high). It assumes that right captions without a sign of it
  are at most as many as those with a weak sign, which is what the bracket estimates, and 8 % of those with any sign
  (chosen and checked on the sets in docs/guides/context.md). Partial captions give weak signs and widen the range.

Both ends are extended by 3 standard errors of independent captions: images share neighbours, and the estimates of
simulated sets varied 1.6 times as much. If high is near 1, either no image has companions or almost all captions are
wrong. The data does not show which of the two.

**Companions** are images with similar texts. Wrong captions leave their number as it is, but the observed share of
attention on them becomes chance + (1 − p)² (share − chance), because both captions of a pair must be right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LEAST_PAIRS = 512
_NEIGHBOURS, _NEIGHBOUR_TEMPERATURE = 48, 0.1
_AGREEING = 0.25  # share of the images, those whose neighbours agree best, that noise is estimated on
_CLEAR = 0.05  # p-values up to which a caption clearly agrees
_UNSEEN = 0.08  # right captions without a sign, as a share of the captions with one
_SIGNAL = 0.1  # least share of captions with a sign of being right, below which the range is unknown
_ERRORS = 3.0  # standard errors
_REFERENCES = 2048  # captions that p-values are computed from
_ROWS = 2048  # rows of a block
_MEASURED = 4096  # rows whose attention is measured per batch size
_SMALLEST_BATCH = 64


class NoiseRange(NamedTuple):
    """Share of captions that belong to another image, from `low` to `high`; not `identifiable` if the data hides it."""

    low: float
    high: float
    identifiable: bool

    @property
    def middle(self) -> float:
        """The middle of the range."""
        return (self.low + self.high) / 2


class BatchCompanions(NamedTuple):
    """Companions of an image in a batch: their number, and the share of attention on them, observed and by chance."""

    batch_size: int
    per_image: float
    observed: float
    chance: float

    def attention_share(self, noise: float) -> float:
        """Return the share of attention on companions if a share `noise` of the captions is wrong."""
        excess = (self.observed - self.chance) / max(1 - noise, 1e-3) ** 2
        return float(np.clip(self.chance + excess, 0, 1))


def standardize(features: np.ndarray) -> np.ndarray:
    """Return features `[rows, dim]` with mean 0 and deviation 1 per dimension, rows scaled to length 1."""
    centred = np.asarray(features, np.float32) - features.mean(axis=0)
    return unit(centred / np.maximum(centred.std(axis=0), 1e-6))


def unit(rows: np.ndarray) -> np.ndarray:
    """Return the rows scaled to length 1; rows of zeros stay zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def estimate_noise(images: np.ndarray, texts: np.ndarray, *, seed: int = 0) -> NoiseRange:
    """Return the range of the share of wrong captions.

    `images` `[pairs, dim]` and `texts` `[pairs, text_dim]` have rows of length 1, texts centred. Raises `ValueError`
    for fewer than 512 pairs.
    """
    if len(images) < LEAST_PAIRS:
        raise ValueError(f"caption noise is estimated from at least {LEAST_PAIRS} pairs, but there are {len(images)}")
    consensus, agreement = neighbours_consensus(images, texts)
    agreeing = np.argsort(-agreement, kind="stable")[: int(_AGREEING * len(images))]
    p = p_values(consensus[agreeing], texts[agreeing], texts, seed=seed)
    upper = float(np.mean(p > 0.5))
    error = _ERRORS * 2 * np.sqrt(max(upper * (1 - upper), 1 / len(p)) / len(p))
    high = min(2 * upper, 1.0)
    weak = max(float(np.mean((p > _CLEAR) & (p <= 0.5))) - (0.5 - _CLEAR) * high, 0.0)
    if 1 - high < max(_SIGNAL, error):
        return NoiseRange(0.0, 1.0, identifiable=False)
    return NoiseRange(max(high - weak - _UNSEEN * (1 - high) - error, 0.0), min(high + error, 1.0), identifiable=True)


class Consensus(NamedTuple):
    """The mean text of each image's neighbours `[pairs, text_dim]`, and how well their texts agree `[pairs]`."""

    texts: np.ndarray
    agreement: np.ndarray


def neighbours_consensus(images: np.ndarray, texts: np.ndarray) -> Consensus:
    """Return the consensus m_i and the agreement of the captions of each image's neighbours."""
    count = min(_NEIGHBOURS, len(images) // 8)
    consensus, agreement = np.empty(texts.shape, np.float32), np.empty(len(images), np.float32)
    for start in range(0, len(images), _ROWS):
        rows = slice(start, start + _ROWS)
        cosines = images[rows] @ images.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        near = np.take_along_axis(cosines, nearest, axis=1) / _NEIGHBOUR_TEMPERATURE
        weights = np.exp(near - near.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        consensus[rows] = np.einsum("nk,nkd->nd", weights, texts[nearest])
        own = np.sum(np.square(weights) * np.sum(np.square(texts[nearest]), axis=2), axis=1)
        total = np.sum(np.square(consensus[rows]), axis=1)
        agreement[rows] = (total - own) / np.maximum(1 - np.sum(np.square(weights), axis=1), 1e-6)
    return Consensus(consensus, agreement)


def p_values(consensus: np.ndarray, own: np.ndarray, texts: np.ndarray, *, seed: int) -> np.ndarray:
    """Return for each row the share of captions that agree better with its consensus than its own; ties at random."""
    rng = np.random.default_rng(seed)
    others = texts[rng.permutation(len(texts))[:_REFERENCES]]
    scores, own_score = consensus @ others.T, np.einsum("nd,nd->n", consensus, own)[:, None]
    margin = 1e-6 * np.maximum(np.abs(own_score), 1e-6)
    better = np.sum(scores > own_score + margin, axis=1)
    equal = np.sum(np.abs(scores - own_score) <= margin, axis=1)
    return (better + rng.random(len(own)) * (equal + 1)) / (len(others) + 1)


def count_companions(
    images: np.ndarray, texts: Any, *, similar: float, temperature: float, seed: int = 0
) -> list[BatchCompanions]:
    """Return the companions in random batches of 64, 128, … up to the number of pairs.

    `images` `[pairs, dim]` and `texts` `[pairs, text_dim]`, which may be sparse, have rows of length 1. Images attend
    by softmax(x_i·x_j / temperature) to others, and are companions if their texts have a cosine of at least `similar`.
    """
    order, found = np.random.default_rng(seed).permutation(len(images)), []
    size = _SMALLEST_BATCH
    while size <= len(images):
        batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        batches = batches[: max(_MEASURED // size, 1)]
        parts = [_measure_batch(images[rows], texts[rows], similar, temperature) for rows in batches]
        per_image, observed, chance = np.mean(parts, axis=0).tolist()
        found.append(BatchCompanions(size, per_image, observed, chance))
        size *= 2
    return found


def _measure_batch(images: np.ndarray, texts: Any, similar: float, temperature: float) -> tuple[float, float, float]:
    """Return number, observed attention share and chance share of companions for up to 2,048 rows of a batch."""
    rows = min(len(images), _ROWS)
    own = np.arange(rows)
    logits = images[:rows] @ images.T / temperature
    logits[own, own] = -np.inf
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    cosines = texts[:rows] @ texts.T
    companions = (cosines if isinstance(cosines, np.ndarray) else cosines.toarray()) >= similar
    companions[own, own] = False
    number = companions.sum() / rows
    return number, float((weights * companions).sum() / rows), number / (len(images) - 1)

"""The transductive adapters in float64 by the equations of their docstrings, and test data."""

import numpy as np

from tests.adapt.adapters.references import unit


def example(classes=6, shots=4, queries=90, dim=16, seed=0):
    """Return support features, labels, class texts, queries and their labels, all near a common direction."""
    rng = np.random.default_rng(seed)
    common, centers = 1.5 * rng.normal(size=dim), rng.normal(size=(classes, dim))
    labels, wanted = np.repeat(np.arange(classes), shots), rng.integers(classes, size=queries)
    images = [unit(common + centers[y] + 0.8 * rng.normal(size=(len(y), dim))) for y in (labels, wanted)]
    text = unit(centers - 0.3 * common + 0.8 * rng.normal(size=centers.shape))
    return images[0], labels, text, images[1], wanted


def softmax(logits):
    z = np.exp(logits - logits.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def linked(rows, queries, m, own):
    """Return W `[rows, queries]`."""
    cosines, w = rows @ queries.T, np.zeros((len(rows), len(queries)))
    for i, row in enumerate(cosines):
        order = [j for j in np.argsort(-row, kind="stable") if not (own and i == j)]
        w[i, order[:m]] = np.maximum(row[order[:m]], 0)
    return w


def transclip(s, y, text, x, scale, gamma=0.002, text_weight=1.0, temperature=50.0, neighbors=3, iterations=10):
    few_shot, classes = len(y) > 0, len(text)
    members, w = np.eye(classes)[y], linked(x, x, neighbors, own=True)
    share = text_weight * (0.5 if few_shot else 1.0)
    zero_shot = softmax(scale * x @ text.T)
    links = linked(s, x, neighbors, own=False).T @ members
    means = np.zeros_like(text)
    for c in range(classes):
        best = np.argsort(-zero_shot[:, c], kind="stable")[:8]
        means[c] = unit(s[y == c].sum(axis=0) if c in y else zero_shot[best, c] @ x[best])
    variance, z = np.full(x.shape[1], 1 / x.shape[1]), zero_shot
    for number in range(iterations + 1):
        weight = gamma * temperature / max(len(y), 1)
        if number:
            means = unit(z.T @ x / len(x) + weight * members.T @ s)
            apart = [np.square(rows[:, None] - means) for rows in (x, s)]
            spread = [np.einsum("ic,icd->d", *pair) for pair in zip((z, members), apart, strict=True)]
            variance = (spread[0] / len(x) + weight * spread[1]) / (1 + weight * len(y))
        log_p = np.array([[-0.5 * np.sum((row - mean) ** 2 / variance) for mean in means] for row in x])
        for _ in range(5):
            logits = share * np.log(zero_shot) + log_p / temperature + ((w + w.T) @ z + links) / (2 * neighbors)
            z = softmax(logits)
    return logits


def ss_text_u(s, y, text, x, scale, constraint=2.0, absent=4.0, iterations=3, sinkhorn=10):
    counts = np.bincount(y, minlength=len(text)).astype(float)
    fixed = text + scale * (counts[:, None] / max(len(y), 1) / constraint) * (np.eye(len(text))[y].T @ s)
    share = np.where(counts > 0, counts, counts[counts > 0].min() / absent if len(y) else 1.0)
    share /= share.sum()
    vectors = text
    for _ in range(iterations):
        z = np.exp(scale * x @ unit(vectors).T)
        for _ in range(sinkhorn):
            z *= share / z.sum(axis=0)
            z /= z.sum(axis=1, keepdims=True)
        z /= z.sum(axis=1, keepdims=True)
        vectors = fixed + scale / len(x) * z.T @ x
    return scale * x @ unit(vectors).T

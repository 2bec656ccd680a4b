"""The adapters as plain float64 loops, by the equations of their docstrings, and data to try them on."""

import math

import numpy as np


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def logits(name, settings, features, labels, text, queries, scale=100.0):
    """Returns the logits `[queries, classes]` of the adapter `name` with `settings`; `text` gives the classes."""
    method = {"zero_shot": zero_shot, "prototypes": prototypes, "knn": knn, "tip_adapter": tip_adapter}[name]
    return method(unit(features), labels, unit(text), unit(queries), scale, **settings)


def zero_shot(features, labels, text, queries, scale):
    return np.array([[scale * (x @ w) for w in text] for x in queries])


def prototypes(features, labels, text, queries, scale, text_weight=0.0, centering="l2"):
    center = features.mean(axis=0) if centering == "cl2n" else np.zeros(features.shape[1])
    means = []
    for c, w in enumerate(text):
        word = unit(w - center)
        members = [unit(s - center) for s, y in zip(features, labels, strict=True) if y == c]
        mean = unit(np.mean(members, axis=0)) if members else word
        means.append(unit((1 - text_weight) * mean + text_weight * word))
    return np.array([[scale * (unit(x - center) @ p) for p in means] for x in queries])


def knn(features, labels, text, queries, scale, k=5, votes="softmax", temperature=0.07):
    weight = {
        "softmax": lambda s, rank: math.exp((s - 1) / temperature),
        "plurality": lambda s, rank: 1.0,
        "distance": lambda s, rank: math.exp(s - 1),
        "rank": lambda s, rank: 1 / (2 + rank),
    }[votes]
    counted = np.zeros((len(queries), len(text)))
    for x, row in zip(queries, counted, strict=True):
        nearest = sorted(((x @ s, -i) for i, s in enumerate(features)), reverse=True)[:k]
        for rank, (s, i) in enumerate(nearest):
            row[labels[-i]] += weight(s, rank)
    return counted


def tip_adapter(features, labels, text, queries, scale, alpha=1.0, beta=5.5):
    out = zero_shot(features, labels, text, queries, scale)
    for x, row in zip(queries, out, strict=True):
        for s, y in zip(features, labels, strict=True):
            row[y] += alpha * math.exp(-beta * (1 - x @ s))
    return out


def example():
    """Returns raw features, labels, class texts and queries: classes of all sizes, one of them without examples."""
    rng = np.random.default_rng(0)
    labels = np.array([0] * 9 + [1] * 3 + [2] + [3] * 7 + [5] * 3)  # 2 has a single example, 4 has none
    features, text, queries = (rng.normal(size=(count, 7)) for count in (len(labels), 6, 11))
    features[4], features[10] = features[2], features[15]  # twice the same, within a class and across two
    return features, rng.permuted(labels), text, queries

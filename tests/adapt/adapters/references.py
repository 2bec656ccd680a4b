"""The adapters as plain float64 loops by the equations of their docstrings, and test data."""

import math

import numpy as np


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def logits(name, settings, features, labels, text, queries, scale=100.0, num_classes=None):
    """Return the logits `[queries, classes]` of the method `name`; the rows of `text`, if given, are the classes."""
    num_classes = len(text) if text is not None else num_classes or max(labels) + 1
    text = None if text is None else unit(text)
    return globals()[name](unit(features), np.asarray(labels), text, unit(queries), scale, num_classes, **settings)


def zero_shot(features, labels, text, queries, scale, num_classes):
    if text is None:
        return np.zeros((len(queries), num_classes))
    return np.array([[scale * (x @ w) for w in text] for x in queries])


def prototypes(features, labels, text, queries, scale, num_classes, text_weight=0.0, centering="l2"):
    center = features.mean(axis=0) if centering == "cl2n" else np.zeros(features.shape[1])
    length = (lambda v: v) if centering == "raw" else unit
    out = np.zeros((len(queries), num_classes))
    for c in range(num_classes):
        members = [unit(s - center) for s, y in zip(features, labels, strict=True) if y == c]
        word = None if text is None else unit(text[c] - center)
        if not members and word is None:
            out[:, c] = -scale
            continue
        mean = length(np.mean(members, axis=0)) if members else word
        if word is not None:
            mean = length((1 - text_weight) * mean + text_weight * word)
        half = mean @ mean / 2 if centering == "raw" else 0
        out[:, c] = [scale * (unit(x - center) @ mean - half) for x in queries]
    return out


def knn(features, labels, text, queries, scale, num_classes, k=5, votes="softmax", temperature=0.07):
    weight = {
        "softmax": lambda s, rank: math.exp(s / temperature),
        "plurality": lambda s, rank: 1.0,
        "distance": lambda s, rank: math.exp(s - 1),
        "rank": lambda s, rank: 1 / (2 + rank),
    }[votes]
    counted = np.zeros((len(queries), num_classes))
    for x, row in zip(queries, counted, strict=True):
        nearest = sorted(((x @ s, -i) for i, s in enumerate(features)), reverse=True)[:k]
        for rank, (s, i) in enumerate(nearest):
            row[labels[-i]] += weight(s - nearest[0][0] if votes == "softmax" else s, rank)
    return counted


def class_weights(labels, num_classes, class_weight):
    counts = np.bincount(labels, minlength=num_classes)
    if class_weight == "none":
        return np.ones(num_classes)
    return np.mean(counts[counts > 0]) / np.maximum(counts, 1)


def tip_adapter(features, labels, text, queries, scale, num_classes, alpha=1.0, beta=5.5, class_weight="balanced"):
    weights = class_weights(labels, num_classes, class_weight)
    out = zero_shot(features, labels, text, queries, scale, num_classes)
    for x, row in zip(queries, out, strict=True):
        for s, y in zip(features, labels, strict=True):
            row[y] += alpha * math.exp(-beta * (1 - x @ s)) * weights[y]
    return out


def tip_x(features, labels, text, queries, scale, num_classes, gamma=1.0, temperature=0.5, **cache):
    weights = class_weights(labels, num_classes, cache.get("class_weight", "balanced"))

    def p(z):
        e = np.exp(text @ z / temperature)
        return e / e.sum()

    def kl(a, b):
        return np.sum(a * np.log(a / b))

    pairs = [(a, b) for i, a in enumerate(features) for j, b in enumerate(features) if i != j]
    low, high = 0.0, 0.0
    least, most = 0.0, 0.0
    if pairs:
        divergences, cosines = [kl(p(a), p(b)) for a, b in pairs], [a @ b for a, b in pairs]
        low, high, least, most = min(divergences), max(divergences), min(cosines), max(cosines)
    out = tip_adapter(features, labels, text, queries, scale, num_classes, **cache)
    for x, row in zip(queries, out, strict=True):
        for s, y in zip(features, labels, strict=True):
            along = (kl(p(x), p(s)) - low) / (high - low) if high > low else 0.0
            row[y] -= gamma * (least + along * (most - least)) * weights[y]
    return out


def ape(
    features,
    labels,
    text,
    queries,
    scale,
    num_classes,
    alpha=1.0,
    beta=5.5,
    gamma=0.1,
    similarity_weight=0.7,
    variance_weight=0.3,
    channels=0.7,
    class_weight="balanced",
):
    weights = class_weights(labels, num_classes, class_weight)
    groups = [np.stack([text[c], *features[labels == c]]) for c in range(num_classes)]
    score = []
    for channel in range(features.shape[1]):
        products = [
            np.mean(np.outer(a[:, channel], b[:, channel]))
            for i, a in enumerate(groups)
            for j, b in enumerate(groups)
            if i != j
        ]
        variance = np.var(text[:, channel], ddof=1) if num_classes > 1 else 0.0
        score.append(variance_weight * variance - similarity_weight * (np.mean(products) if products else 0.0))
    best = np.argsort(np.negative(score), kind="stable")[: round(channels * features.shape[1])]
    refined, words = unit(features[:, best]), unit(text[:, best])
    out = zero_shot(features, labels, text, queries, scale, num_classes)
    for x, row in zip(unit(queries[:, best]), out, strict=True):
        for s, y in zip(refined, labels, strict=True):
            p = np.exp(words @ s) / np.exp(words @ s).sum()
            target = np.eye(num_classes)[y]
            d = np.sum(target * np.log2((target + 1e-6) / (p + 1e-6)))
            row[y] += alpha * math.exp(-beta * (1 - x @ s)) * math.exp(gamma * d) * weights[y]
    return out


def gda(features, labels, text, queries, scale, num_classes, alpha=0.03):
    """The authors' W and b, minus the same expression for the mean of the class means."""
    n, dim = features.shape
    means = {c: features[labels == c].mean(axis=0) for c in range(num_classes) if (labels == c).any()}
    rest = np.stack([s - means[y] for s, y in zip(features, labels, strict=True)])
    if (np.abs(rest) < 1e-6).all():
        rest = features - features.mean(axis=0)
    s = rest.T @ rest / max(n - 1, 1)
    precision = dim * np.linalg.pinv((n - 1) * s + np.trace(s) * np.eye(dim))
    if (np.abs(rest) < 1e-6).all():
        precision = np.zeros((dim, dim))

    def gaussian(x, mean):
        return x @ precision @ mean - mean @ precision @ mean / 2

    center = np.mean(list(means.values()), axis=0)
    out = zero_shot(features, labels, text, queries, scale, num_classes)
    for x, row in zip(queries, out, strict=True):
        for c, mean in means.items():
            row[c] += alpha * (gaussian(x, mean) - gaussian(x, center))
        if text is None:
            row[[c for c in range(num_classes) if c not in means]] = min(row[c] for c in means)
    return out


def proker(features, labels, text, queries, scale, num_classes, beta=2.5, ridge=0.1):
    words = np.zeros((num_classes, features.shape[1])) if text is None else text
    kernel = np.exp(-beta * (1 - features @ features.T))
    residual = np.eye(num_classes)[labels] - features @ words.T
    residual[:, [c for c in range(num_classes) if not (labels == c).any()]] = 0
    coefficients = np.linalg.solve(kernel / ridge + np.eye(len(features)), residual)
    return scale * (queries @ words.T + np.exp(-beta * (1 - queries @ features.T)) @ coefficients)


def ss_text(features, labels, text, queries, scale, num_classes, constraint=20.0, repel=0.0, penalty="shots"):
    n, vectors = len(labels), []
    for c in range(num_classes):
        members = features[labels == c]
        strength = constraint / max(len(members), 1) if penalty == "shots" else constraint / n
        vectors.append(text[c] + scale / (n * strength) * members.sum(axis=0))
    vectors = np.stack(vectors)
    vectors = vectors - repel * unit(2 * vectors - vectors.mean(axis=0))
    return scale * queries @ unit(vectors).T


def local(features, labels, text, queries, scale, num_classes, inner="tip_adapter", rbf=-16.0, damp=1.0, **settings):
    start = zero_shot(features, labels, text, queries, scale, num_classes)
    end = globals()[inner](features, labels, text, queries, scale, num_classes, **settings)
    nearest = np.max(queries @ features.T, axis=1, keepdims=True) if len(features) else -np.inf
    gate = damp * np.exp(rbf * np.clip(1 - nearest, 0, 1))
    return start + gate * (end - start)


def example():
    """Return raw features, labels, class texts and queries; class sizes vary, and one class has no examples."""
    rng = np.random.default_rng(0)
    labels = np.array([0] * 9 + [1] * 3 + [2] + [3] * 7 + [5] * 3)  # class 2 has a single example, class 4 none
    features, text, queries = (rng.normal(size=(count, 7)) for count in (len(labels), 6, 11))
    features[4], features[10] = features[2], features[15]  # duplicates within a class and across classes
    return features, rng.permuted(labels), text, queries


def large_example(classes, shots, dim=24):
    """Return the same with `classes` classes, most with `shots` examples and some with fewer, and a duplicate row."""
    rng = np.random.default_rng(classes * 100 + shots)
    counts = np.full(classes, shots)
    counts[:: max(2, classes // 7)] = 1
    labels = rng.permutation(np.repeat(np.arange(classes), counts))
    centers = rng.normal(size=(classes, dim))
    features = centers[labels] + rng.normal(size=(len(labels), dim))
    features[-1] = features[0]
    text = centers + 2 * rng.normal(size=(classes, dim))
    return features, labels, text, centers[rng.integers(classes, size=9)] + rng.normal(size=(9, dim))

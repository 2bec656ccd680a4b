"""Imbalanced support sets: as many images as balanced ones, with natural or long-tailed class frequencies."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from adapt.evaluation.protocols.support_protocol import NATURAL, SupportProtocol
from adapt.evaluation.sampling import Draw, class_orders

_NATURAL_STREAM, _ZIPF_STREAM = 1, 2  # of random numbers, apart from those of the images of a class


def draw_imbalanced(
    labels: np.ndarray, classes: np.ndarray, *, shots: int, seed: int, protocol: SupportProtocol, keep: int = 0
) -> Draw:
    """Draw shots × classes images of the classes in the mask `classes` `[num_classes]`, one or more of each.

    At most all images of a class but `keep` are drawn. The draws of one seed are nested, and at one shot all protocols
    draw one image of each class: the images of a class are the first of the same random order as in `draw_nested`.
    `short` is true where a class has no images, where there are fewer images than shots × classes, or where a class
    has fewer images than its long-tailed frequency asks for.
    """
    orders = class_orders(labels, len(classes), seed=seed, keep=keep)
    available = [len(order) if drawn else 0 for order, drawn in zip(orders, classes, strict=True)]
    total = shots * int(classes.sum())
    if protocol.balance == NATURAL:
        counts, short = natural_counts(available, total, seed=seed), False
    else:
        counts, short = zipf_counts(available, total, exponent=protocol.zipf_exponent, seed=seed, classes=classes)
    short |= sum(counts) < total or any(not count for count, drawn in zip(counts, classes, strict=True) if drawn)
    return Draw(np.concatenate([order[:count] for order, count in zip(orders, counts, strict=True)]), short)


def natural_counts(available: Sequence[int], total: int, *, seed: int) -> list[int]:
    """Return the images of each class: one of each, then a draw without replacement from all other images."""
    first = np.minimum(available, 1)
    others = np.repeat(np.arange(len(available)), np.array(available) - first)
    drawn = np.random.default_rng([seed, _NATURAL_STREAM]).permutation(others)[: max(total - int(first.sum()), 0)]
    return (first + np.bincount(drawn, minlength=len(available))).tolist()


def zipf_counts(
    available: Sequence[int], total: int, *, exponent: float, seed: int, classes: np.ndarray
) -> tuple[list[int], bool]:
    """Return the images of each class by Zipf's law, and whether a class has too few images for it.

    The frequency of the class with rank r, from 1, is proportional to r^−exponent; the seed draws the ranks. After one
    image of each class, each further image goes to the class with the largest frequency / (images + ½) that has images
    left: the divisor method of Webster, whose counts never fall when the total grows.
    """
    drawn = np.flatnonzero(classes)
    ranks = np.random.default_rng([seed, _ZIPF_STREAM]).permutation(len(drawn)) + 1
    frequencies = dict(zip(drawn.tolist(), (ranks.astype(np.float64) ** -exponent).tolist(), strict=True))
    counts = np.minimum(available, 1).tolist()
    waiting = [(-frequencies[label] / (counts[label] + 0.5), label) for label in frequencies if counts[label]]
    heapq.heapify(waiting)
    short = False
    for _ in range(total - sum(counts)):
        while waiting and counts[waiting[0][1]] == available[waiting[0][1]]:
            heapq.heappop(waiting)
            short = True
        if not waiting:
            break
        label = waiting[0][1]
        counts[label] += 1
        heapq.heapreplace(waiting, (-frequencies[label] / (counts[label] + 0.5), label))
    return counts, short

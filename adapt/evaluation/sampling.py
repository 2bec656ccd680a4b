"""Draws of support sets: the labelled images that a few-shot classifier is given."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """Rows of the drawn images, class by class; `short` is true where a class has fewer images than shots."""

    rows: np.ndarray
    short: bool


def draw_nested(labels: np.ndarray, num_classes: int, *, shots: int, seed: int, keep: int = 0) -> Draw:
    """Draw `shots` images of each class in [0, num_classes), from a smaller class all but `keep`.

    The draws of one seed are nested: the images of a class at k shots are the first k of one random order.
    """
    orders = class_orders(labels, num_classes, seed=seed, keep=keep)
    return Draw(np.concatenate([order[:shots] for order in orders]), any(len(order) < shots for order in orders))


def class_orders(labels: np.ndarray, num_classes: int, *, seed: int, keep: int = 0) -> list[np.ndarray]:
    """Return the rows of each class in a random order, without the last `keep` of them."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.flatnonzero(labels == label)) for label in range(num_classes)]
    return [order[: max(len(order) - keep, 0)] for order in orders]


def draw_coop(labels: np.ndarray, *, shots: int, seed: int) -> Draw:
    """Draw as CoOp (arXiv 2109.01134) drew its few-shot lists from its training lists, with seeds from 1.

    `labels` must be in the order of the list. Python's random generator is seeded again for each number of shots, so
    that draws are not nested. A class with fewer images than shots is drawn from with replacement.
    """
    rng = random.Random(seed)
    rows: list[int] = []
    short = False
    for label in dict.fromkeys(labels.tolist()):
        members = np.flatnonzero(labels == label).tolist()
        short |= len(members) < shots
        rows += rng.sample(members, shots) if len(members) >= shots else rng.choices(members, k=shots)
    return Draw(np.array(rows), short)


def draw_all(labels: np.ndarray) -> Draw:
    """Return all images, class by class."""
    return Draw(np.argsort(labels, kind="stable"), False)

"""Support sets: which labelled examples a few-shot classifier may see."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """Rows of the drawn examples, class by class; `short` says that some class had fewer than the shots asked for."""

    rows: np.ndarray
    short: bool


def draw_nested(labels: np.ndarray, classes: int, *, shots: int, seed: int, keep: int = 0) -> Draw:
    """Draws `shots` examples of each class in [0, classes), of a class with fewer all but `keep`.

    The supports of one seed are nested: a class's examples are the first of one random order, whatever the shots.
    """
    rng = np.random.default_rng(seed)
    rows, short = [], False
    for label in range(classes):
        order = rng.permutation(np.flatnonzero(labels == label))
        order = order[: len(order) - keep] if keep else order
        short |= len(order) < shots
        rows.append(order[:shots])
    return Draw(np.concatenate(rows), short)


def draw_coop(labels: np.ndarray, *, shots: int, seed: int) -> Draw:
    """Draws as the few-shot lists of CoOp (arXiv 2109.01134) were drawn from their train lists, seeds from 1.

    `labels` must be in the order of the list. Python's random numbers begin anew for each number of shots and seed, so
    that supports are not nested; of a class with fewer examples some are drawn twice.
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
    """Returns all examples, class by class."""
    return Draw(np.argsort(labels, kind="stable"), False)

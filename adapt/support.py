"""Support sets: which labelled examples a few-shot classifier may see, and which it is tested on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """One random draw. `support` `[classes, max_shots]` are indices; the first k columns are the k-shot support.

    So the supports of one draw are nested, and `query`, what is in none of them, tests them all.
    """

    support: np.ndarray
    query: np.ndarray

    def at(self, shots: int) -> np.ndarray:
        """Returns the indices of the `shots`-shot support, `[classes * shots]`, class by class."""
        return self.support[:, :shots].reshape(-1)


def draw_support(labels: np.ndarray, *, max_shots: int, seed: int) -> Draw:
    """Draws `max_shots` examples of each class at random; the rest are queries.

    Raises `ValueError` for a class with too few examples to leave a query.
    """
    rng = np.random.default_rng(seed)
    support = []
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        if len(members) <= max_shots:
            raise ValueError(f"class {label} has {len(members)} examples, too few for {max_shots} shots and a query")
        support.append(rng.permutation(members)[:max_shots])
    support = np.stack(support)
    return Draw(support, np.setdiff1d(np.arange(len(labels)), support))

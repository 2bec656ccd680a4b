"""Choose the pictures to label next."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Suggestion(NamedTuple):
    row: int
    reason: str


class Chooser:
    def __init__(self, *, seed: int = 0):
        self._seed = seed

    def add(self, features):
        pass

    def choose(self, count, *, features, labelled, labels, logits, open_rows):
        rows = np.flatnonzero(open_rows[: len(features)])
        if logits is not None:
            rows = rows[rows < len(logits)]
            top = np.sort(logits[rows], axis=1)
            rows = rows[np.argsort(top[:, -1] - top[:, -2], kind="stable")]
        return [Suggestion(int(row), "uncertain") for row in rows[:count]]

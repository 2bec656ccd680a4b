"""The accuracy to expect on pictures without label, from predictions for random ones made before they were labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from adapt.photos.expected_accuracy import wilson_interval

LEAST_CHECKS = 5
_RECENT = 3  # the last of this number of parts counts: earlier predictions are those of a worse classifier


class AccuracyEstimate(NamedTuple):
    """The number of predictions that were right, of `total`, and Wilson's interval at 95 %."""

    correct: int
    total: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        """The share of right ones."""
        return self.correct / self.total


def estimate_accuracy(checks: Sequence[bool]) -> AccuracyEstimate | None:
    """Return the estimate from the last third of `checks`, at least `LEAST_CHECKS` of them; None if there are fewer.

    A check is whether the prediction for a picture, made before it was labelled, was right. The pictures must be drawn
    at random: those that are suggested because they are uncertain or unlike all labelled ones are harder than others,
    and leaving out labelled ones makes this worse, as few labelled pictures are alike (docs/results/labelling.md).
    """
    if len(checks) < LEAST_CHECKS:
        return None
    recent = checks[-max(LEAST_CHECKS, len(checks) // _RECENT) :]
    correct = sum(recent)
    return AccuracyEstimate(correct, len(recent), *wilson_interval(correct, len(recent)))

"""The best checkpoints of a run, by a metric that the run has written."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from pretrain.monitoring.metric_writer import read_metrics

_EVALUATION = "evaluation/"


class BestStep(NamedTuple):
    """A step and the value of its metric."""

    step: int
    value: float


class BestCheckpoints:
    """Select the best steps by `metric` in a `metrics.jsonl`: the lowest if its name ends in "loss", else the highest.

    An evaluation belongs to its own step and may still be running: the steps of `evaluate_every` without a result are
    selected too. The value of any other metric at a step is the last one written up to it.
    """

    def __init__(self, path: pathlib.Path, metric: str, *, evaluate_every: int):
        self.metric, self._path, self._every = metric, path, evaluate_every

    def __call__(self, steps: Sequence[int]) -> set[int]:
        """Return the steps whose checkpoints must be kept."""
        values = self.values(steps)
        best = self.best(steps)
        pending = set()
        if self.metric.startswith(_EVALUATION) and self._every:
            pending = {step for step in steps if step % self._every == 0 and step not in values}
        return pending | ({best.step} if best else set())

    def best(self, steps: Sequence[int]) -> BestStep | None:
        """Return the best of the steps, the latest of equals, or None if no step has a value."""
        values = self.values(steps)
        if not values:
            return None
        sign = -1 if self.metric.endswith("loss") else 1
        step = max(values, key=lambda step: (sign * values[step], step))
        return BestStep(step, values[step])

    def values(self, steps: Sequence[int]) -> dict[int, float]:
        """Return the metric of each step that has one."""
        written = {line["step"]: line[self.metric] for line in read_metrics(self._path) if self.metric in line}
        if self.metric.startswith(_EVALUATION):
            return {step: written[step] for step in steps if step in written}
        last_written = {step: max((each for each in written if each <= step), default=None) for step in steps}
        return {step: written[last] for step, last in last_written.items() if last is not None}

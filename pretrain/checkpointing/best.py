"""Which checkpoints are the best so far, by a metric that the run has written."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from pretrain.monitoring.metric_writer import read_metrics

_EVALUATION = "evaluation/"


class Best:
    """Chooses the best of some steps by `metric` in a `metrics.jsonl`: the lowest where it ends in "loss", else the
    highest.

    An evaluation is of its own step and may still be going on: the steps of `evaluate_every` that have none yet are
    chosen too. Any other metric of a step is the last that was written until then.
    """

    def __init__(self, path: pathlib.Path, metric: str, *, evaluate_every: int):
        self.metric, self._path, self._every = metric, path, evaluate_every

    def __call__(self, steps: Sequence[int]) -> set[int]:
        values = self.values(steps)
        chosen = self.best(steps)
        awaited = set()
        if self.metric.startswith(_EVALUATION) and self._every:
            awaited = {step for step in steps if step % self._every == 0 and step not in values}
        return awaited | ({chosen[0]} if chosen else set())

    def best(self, steps: Sequence[int]) -> tuple[int, float] | None:
        """Returns the best of the steps, the latest of equals, and its value; None where no step has one."""
        values = self.values(steps)
        if not values:
            return None
        sign = -1 if self.metric.endswith("loss") else 1
        step = max(values, key=lambda step: (sign * values[step], step))
        return step, values[step]

    def values(self, steps: Sequence[int]) -> dict[int, float]:
        """Returns the metric of each step that has one."""
        written = {line["step"]: line[self.metric] for line in read_metrics(self._path) if self.metric in line}
        if self.metric.startswith(_EVALUATION):
            return {step: written[step] for step in steps if step in written}
        found = {step: max((each for each in written if each <= step), default=None) for step in steps}
        return {step: written[last] for step, last in found.items() if last is not None}

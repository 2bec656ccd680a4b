"""The log of training steps: `metrics.jsonl` with its mirrors, and the progress display."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax

from data.pipeline.bad_records import BadRecordTracker
from foundation.progress import ProgressBar
from pretrain.monitoring.metric_writer import MetricsWriter
from pretrain.monitoring.throughput import Throughput
from pretrain.monitoring.throughput import describe as describe_throughput


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepLog:
    """Log a step's metrics with its rates, learning rate, replaced records and hardware use.

    Metrics that the step has not computed, such as those of a context loss before its start, are NaN and left out.
    `writer` is None on all processes but the first, which then log nothing.
    """

    schedule: Callable[[int], jax.typing.ArrayLike]
    throughput: Throughput
    bad_records: BadRecordTracker
    progress: ProgressBar
    writer: MetricsWriter | None

    def write(self, step: int, metrics: Mapping[str, jax.Array], *, rates: Mapping[str, float]) -> None:
        """Log the metrics of a step and the rates since the last logged one."""
        computed = {name: float(value) for name, value in metrics.items()}
        values = {name: value for name, value in computed.items() if not math.isnan(value)} | dict(rates)
        values["learning_rate"] = float(self.schedule(step - 1))
        values["replaced_records"] = float(self.bad_records.counts.total())
        values |= self.throughput.read(values["pairs_per_second"])
        if self.writer is not None:
            self.writer.write(step, values)
            self.progress.show(step, describe(values))


def describe(values: Mapping[str, float]) -> str:
    """Return the text of a progress line."""
    shown = [f"loss {values['loss']:.3f}", f"scale {values['logit_scale']:.2f}"]
    if "context_temperature" in values:
        shown += [
            f"context scale {values['context_logit_scale']:.2f}",
            f"temperature {values['context_temperature']:.2g}",
            f"attended {values['effective_items']:.1f}",
            f"on companions {values['companion_attention']:.0%}",
        ]
    if values.get("equal_texts_per_row"):
        shown.append(f"equal texts per row {values['equal_texts_per_row']:.2g}")
    shown += describe_throughput(values)
    if values["replaced_records"]:
        shown.append(f"replaced {values['replaced_records']:.0f}")
    return "  ".join(shown)

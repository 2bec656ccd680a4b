"""Bad losses: what counts as one, which checkpoint a run rolls back to, and which batches it skips from then on."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from foundation.deprecation import warn_renamed
from foundation.files.json_lines import read_json_lines, write_json_lines
from foundation.settings import PositiveFloat, PositiveInt, check
from foundation.suggestions import unknown_name

SKIPPED_FILE = "skipped.jsonl"
WATCHED_METRICS = ("loss", "gradient_norm")
REACTIONS = ("stop", "rollback")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecoverySettings:
    """Settings of the reaction to a bad loss: one that is not finite, or above `max_loss`.

    on_bad_loss: "stop", or "rollback": restore the newest checkpoint and skip the batches after it. They are recorded
        in `skipped.jsonl` and stay skipped when the run is resumed.
    max_loss: losses above it are bad (default: only those that are not finite).
    max_rollbacks: number of rollbacks per run, after which it ends.
    """

    RENAMED: ClassVar[dict[str, str]] = {"max_go_backs": "max_rollbacks"}

    on_bad_loss: str = "stop"
    max_loss: PositiveFloat | None = None
    max_rollbacks: PositiveInt = 3

    def __post_init__(self) -> None:
        check(self, "recovery")
        if self.on_bad_loss == "go_back":
            warn_renamed("recovery.on_bad_loss=go_back", "recovery.on_bad_loss=rollback")
            object.__setattr__(self, "on_bad_loss", "rollback")
        if self.on_bad_loss not in REACTIONS:
            raise ValueError(unknown_name("recovery.on_bad_loss", self.on_bad_loss, REACTIONS))


class BadLossError(FloatingPointError):
    """A step has a loss that is not finite or too high; `reason` names the metric and its value."""

    def __init__(self, step: int, reason: str):
        super().__init__(
            f"{reason} at step {step}. Lower optimizer.learning_rate, or set recovery.on_bad_loss to rollback, which "
            "skips the batches after the last checkpoint. Then run the same command again to resume from that "
            "checkpoint."
        )
        self.step, self.reason = step, reason


def check_loss(metrics: Mapping[str, float], step: int, settings: RecoverySettings) -> None:
    """Raise `BadLossError` if a metric is not finite or the loss is above `max_loss`."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise BadLossError(step, f"{name} is {value}")
    if settings.max_loss is not None and metrics["loss"] > settings.max_loss:
        raise BadLossError(step, f"loss is {metrics['loss']:.4g}, above recovery.max_loss {settings.max_loss:.4g},")


def find_rollback_checkpoint(
    bad: BadLossError, checkpoints: Collection[int], *, earlier: Sequence[int], settings: RecoverySettings
) -> int | None:
    """Return the step of the newest checkpoint to roll back to; None for the initial state.

    `earlier` are the steps of the run's rollbacks so far: each checkpoint is used once. Raises `bad` if the settings
    ask the run to stop, and `FloatingPointError` after `max_rollbacks` rollbacks.
    """
    if settings.on_bad_loss == "stop":
        raise bad
    if len(earlier) >= settings.max_rollbacks:
        raise FloatingPointError(
            f"{bad.reason} at step {bad.step}, after {settings.max_rollbacks} rollbacks (recovery.max_rollbacks). "
            "Lower optimizer.learning_rate."
        ) from bad
    return max((step for step in checkpoints if step not in earlier and step < bad.step), default=None)


def read_skipped(workdir: pathlib.Path) -> tuple[tuple[int, int], ...]:
    """Return the pairs (step, number of batches to skip after it) that `data.pipeline.sampler.BatchSampler` takes.

    A rollback past an earlier one also skips the batches that the earlier one skipped. Skips at steps that the run has
    not reached again are dropped: those batches are used after all.
    """
    skipped: list[tuple[int, int]] = []
    for line in read_json_lines(workdir / SKIPPED_FILE):
        target, bad = line["after_step"], line["after_step"] + line["batches"]
        between = sum(batches for step, batches in skipped if target < step < bad)
        skipped = [pair for pair in skipped if pair[0] <= target]
        skipped.append((target, line["batches"] + between))
    return tuple(skipped)


def read_rollbacks(workdir: pathlib.Path) -> list[int]:
    """Return the steps that a run has rolled back to, in the order of its rollbacks."""
    return [line["after_step"] for line in read_json_lines(workdir / SKIPPED_FILE)]


def record_rollback(workdir: pathlib.Path, bad: BadLossError, *, step: int) -> None:
    """Record in `skipped.jsonl` that the batches between `step` and the bad loss are skipped from now on."""
    line: dict[str, Any] = {
        "after_step": step,
        "batches": bad.step - step,
        "reason": f"{bad.reason} at step {bad.step}",
    }
    write_json_lines(workdir / SKIPPED_FILE, [*read_json_lines(workdir / SKIPPED_FILE), line])

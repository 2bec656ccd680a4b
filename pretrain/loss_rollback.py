"""What is a bad loss, and which batches a run has left out because of one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

SKIPPED_FILE = "skipped.jsonl"
WATCHED = ("loss", "gradient_norm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecoverySettings:
    """What becomes of a run whose loss is not finite, or above `max_loss`.

    `on_bad_loss` is "stop", or "go_back": to the newest checkpoint, and on without the batches since, up to
    `max_go_backs` times. The batches are in `skipped.jsonl`, and stay skipped when the run is continued.
    """

    on_bad_loss: str = "stop"
    max_loss: float | None = None
    max_go_backs: int = 3

    def __post_init__(self) -> None:
        if self.on_bad_loss not in ("stop", "go_back"):
            raise ValueError(f"unknown recovery.on_bad_loss {self.on_bad_loss!r}; known: stop, go_back")
        if self.max_loss is not None and not self.max_loss > 0:
            raise ValueError(f"recovery.max_loss is {self.max_loss}; it must be a positive number, or None")
        if self.max_go_backs < 1:
            raise ValueError(f"recovery.max_go_backs is {self.max_go_backs}; it must be at least 1")


class BadLossError(FloatingPointError):
    """The loss of a step is not finite, or too high: `reason` says which."""

    def __init__(self, step: int, reason: str):
        super().__init__(
            f"{reason} at step {step}; lower optimizer.learning_rate, or set recovery.on_bad_loss to go_back, which "
            "leaves out the batches since the last checkpoint; then run the same command again: it continues there"
        )
        self.step, self.reason = step, reason


def check_loss(values: Mapping[str, float], step: int, settings: RecoverySettings) -> None:
    """Raises `BadLossError` where a metric is not finite, or the loss above `max_loss`."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise BadLossError(step, f"{name} is {value}")
    if settings.max_loss is not None and values["loss"] > settings.max_loss:
        raise BadLossError(step, f"loss is {values['loss']:.4g}, above recovery.max_loss {settings.max_loss:.4g},")


def read_skipped(workdir: pathlib.Path) -> tuple[tuple[int, int], ...]:
    """Returns pairs (step, batches) as `data.pipeline.sampler.BatchSampler` takes them; none where nothing was skipped.

    Where the run went back beyond an earlier pair, that one's batches are among those that the later leaves out. A pair
    that it had not come to again is forgotten: its batches come anew.
    """
    skipped: list[tuple[int, int]] = []
    for line in _lines(workdir):
        after, bad = line["after_step"], line["after_step"] + line["batches"]
        beyond = sum(batches for step, batches in skipped if after < step < bad)
        skipped = [pair for pair in skipped if pair[0] <= after]
        skipped.append((after, line["batches"] + beyond))
    return tuple(skipped)


def read_went_back_to(workdir: pathlib.Path) -> list[int]:
    """Returns the steps that a run has gone back to so far, in all its calls."""
    return [line["after_step"] for line in _lines(workdir)]


def _lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    path = workdir / SKIPPED_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def skip(workdir: pathlib.Path, *, after_step: int, batches: int, reason: str) -> None:
    """Notes that the `batches` that followed `after_step` are left out from now on."""
    path = workdir / SKIPPED_FILE
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    line = json.dumps({"after_step": after_step, "batches": batches, "reason": reason})
    partial = path.with_suffix(".partial")
    partial.write_text(f"{before}{line}\n", encoding="utf-8")
    os.replace(partial, path)

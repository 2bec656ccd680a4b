"""What a run says of itself: a progress line, `metrics.jsonl`, and TensorBoard event files."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Protocol

from pretrain.monitoring.tensorboard_writer import EventFile

METRICS_FILE = "metrics.jsonl"


class Mirror(Protocol):
    """Another place that metrics are written to."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of a step."""

    def close(self) -> None:
        """Ends the writing."""


class MetricsWriter:
    """Appends the metrics of a step to `metrics.jsonl` and to TensorBoard event files in `workdir`.

    A run that continues at `start_step` drops the lines of later steps, which it is about to write again. `mirror` gets
    all metrics too.
    """

    def __init__(self, workdir: str | os.PathLike, *, start_step: int = 0, mirror: Mirror | None = None):
        self._workdir, self._mirror = pathlib.Path(workdir), mirror
        self._open(start_step)

    def _open(self, start_step: int) -> None:
        path = self._workdir / METRICS_FILE
        kept = [line for line in read_metrics(path) if line["step"] <= start_step]
        temporary = path.with_suffix(".partial")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()
        self._events = EventFile(self._workdir / "tensorboard", purge_step=start_step + 1)

    def back_to(self, step: int) -> None:
        """Drops what was written of later steps."""
        self._lines.close()
        self._events.close()
        self._open(step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line; it is on disk when this returns."""
        self._lines.write(json.dumps({"step": step, **metrics}) + "\n")
        self._lines.flush()
        self._events.write(step, metrics)
        if self._mirror:
            self._mirror.write(step, metrics)

    def close(self) -> None:
        """Closes the files, and the mirror."""
        self._lines.close()
        self._events.close()
        if self._mirror:
            self._mirror.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """Returns the lines of a `metrics.jsonl`, without a last line that was cut off; none where there is no file."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

"""What a run says of itself: a progress line, `metrics.jsonl`, and TensorBoard event files."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

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


class Progress:
    """Prints where a run is: one line that renews itself on a terminal, plain lines where output is piped."""

    def __init__(self, total: int, *, start: int = 0, unit: str = "step", stream: TextIO | None = None):
        self.total, self.start, self.unit = total, start, unit
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._began = time.monotonic()

    def begin(self, step: int) -> None:
        """Leaves out of the rate what came before the end of this step, such as a compilation."""
        self.start, self._began = step, time.monotonic()

    def show(self, step: int, text: str) -> None:
        """Prints the step, `text`, and the time left at the mean rate so far."""
        elapsed = time.monotonic() - self._began
        left = elapsed / max(step - self.start, 1) * (self.total - step)
        line = f"{self.unit} {step:>{len(str(self.total))}}/{self.total}  {text}  {format_duration(left)} left"
        print(f"\r\x1b[2K{line}" if self._live else line, end="" if self._live else "\n", file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the line."""
        if self._live:
            print(file=self._stream, flush=True)


class CollectionsProgress:
    """Prints how far each of several collections is, with its rate: often on a terminal, seldom where piped."""

    def __init__(self, *, stream: TextIO | None = None):
        self._stream = stream or sys.stdout
        self._pause = 0.2 if self._stream.isatty() else 10.0
        self._began: dict[str, tuple[float, int, Progress]] = {}
        self._quiet_until: dict[str, float] = {}

    def show(self, name: str, done: int, total: int) -> None:
        """Prints that `done` of `total` rows of a collection are; where it begins, and between the lines, nothing."""
        now = time.monotonic()
        if name not in self._began:
            self._began[name] = now, done, Progress(total, start=done, unit=name, stream=self._stream)
        since, first, progress = self._began[name]
        if done == first or (done < total and now < self._quiet_until.get(name, 0.0)):
            return
        self._quiet_until[name] = now + self._pause
        progress.show(done, f"{(done - first) / max(now - since, 1e-9):.1f} a second")
        if done == total:
            progress.close()


def format_duration(seconds: float) -> str:
    """Returns seconds as `1h02m`, `3m20s` or `7s`."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"

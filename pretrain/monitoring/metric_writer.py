"""Metrics of a run: `metrics.jsonl`, TensorBoard event files, and a mirror such as Weights & Biases."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Protocol

from foundation.files.json_lines import parse_json_lines, read_json_lines, write_json_lines
from pretrain.monitoring.tensorboard_writer import EventFile

METRICS_FILE, DAMAGED_FILE = "metrics.jsonl", "metrics.damaged.jsonl"
logger = logging.getLogger(__name__)
_RENAMED = {"model_flops_share": "mfu"}  # names of metrics in files of earlier versions


class Mirror(Protocol):
    """Another place that metrics are written to."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""

    def close(self) -> None:
        """Finish writing."""


class MetricsWriter:
    """Append the metrics of each step to `metrics.jsonl` and to TensorBoard event files in `workdir`.

    A run that resumes at `start_step` drops the lines of later steps, which it will write again. Lines that are damaged
    are reported, and the file is kept as `metrics.damaged.jsonl`. So is a gap before `start_step` of more than
    `log_every` steps. `mirror` also gets all metrics.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        start_step: int = 0,
        log_every: int | None = None,
        mirror: Mirror | None = None,
    ):
        self._workdir, self._mirror = pathlib.Path(workdir), mirror
        self._open(start_step)
        if log_every is not None:
            self._report_gap(start_step, log_every)

    def _open(self, start_step: int) -> None:
        path = self._workdir / METRICS_FILE
        found = parse_json_lines(path)
        if found.damaged:
            copy = path.with_name(DAMAGED_FILE)
            shutil.copyfile(path, copy)
            lines = ", ".join(map(str, found.damaged[:5])) + (" …" if len(found.damaged) > 5 else "")
            logger.warning(
                f"{len(found.damaged)} damaged line(s) of {path} (line {lines}) are left out; the file was copied to "
                f"{copy.name}"
            )
        write_json_lines(path, [line for line in _renamed(found.rows) if line["step"] <= start_step])
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()
        self._events = EventFile(self._workdir / "tensorboard", purge_step=start_step + 1)

    def _report_gap(self, start_step: int, log_every: int) -> None:
        last = max((line["step"] for line in read_metrics(self._workdir / METRICS_FILE)), default=0)
        if start_step - last >= log_every:
            logger.warning(
                f"{self._workdir / METRICS_FILE} has no metrics of steps {last + 1} to {start_step}, which the run has "
                "taken: lines are lost, and the curves have a gap"
            )

    def rollback(self, step: int) -> None:
        """Drop the metrics of later steps."""
        self._lines.close()
        self._events.close()
        self._open(step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        self._lines.write(json.dumps({"step": step, **metrics}) + "\n")
        self._lines.flush()  # not synced: training would wait for the checkpoint that is being written to the same disk
        self._events.write(step, metrics)
        if self._mirror:
            self._mirror.write(step, metrics)

    def close(self) -> None:
        """Close the files and the mirror."""
        self._lines.close()
        self._events.close()
        if self._mirror:
            self._mirror.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """Return the lines of a `metrics.jsonl` without a cut last line; an absent file gives an empty list."""
    return _renamed(read_json_lines(path))


def _renamed(lines: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    return [{_RENAMED.get(name, name): value for name, value in line.items()} for line in lines]

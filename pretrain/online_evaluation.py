"""Evaluation during training: a callback gets an export of the towers, and its scalars are logged."""

from __future__ import annotations

import concurrent.futures
import enum
import json
import logging
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from foundation.error_text import first_line
from foundation.files.atomic import write_json
from foundation.progress import format_duration
from pretrain.config.training import RunSettings
from pretrain.monitoring.metric_writer import METRICS_FILE, MetricsWriter, read_metrics

logger = logging.getLogger(__name__)

FOLDER, EXPORT, SCALARS_FILE = "evaluations", "export", "scalars.json"
_SHOWN = 6  # scalars in a log line

Finish = Callable[[], Mapping[str, float]]
Evaluate = Callable[[int, pathlib.Path], Finish]
"""Called on all hosts with a step and an exported checkpoint, while training waits: the place for work on devices.

The function that it returns is called on the first host only, in a background thread. It returns scalars by name and
must not use devices or communicate with other hosts.
"""

Export = Callable[..., Any]
"""Called as `export(folder, step=step, parameters=parameters)` on the first host, with arrays of NumPy."""


class _Progress(enum.IntEnum):
    """The progress of a step's evaluation."""

    NOT_STARTED = 0
    EXPORTED = 1
    DONE = 2


class _Running(NamedTuple):
    step: int
    embedding_seconds: float
    scalars: concurrent.futures.Future


class Evaluations:
    """The evaluations of a run, each in `workdir/evaluations/step-…`; at most one runs while training continues.

    An evaluation that fails in the background is logged and keeps its export; it is repeated when the run is resumed.
    Only the first host has a `writer`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        settings: RunSettings,
        evaluate: Evaluate | None,
        *,
        export: Export,
        writer: MetricsWriter | None,
    ):
        self._workdir, self._evaluate, self._writer = workdir, evaluate, writer
        self._write_export = export
        self._every, self._keep_exports = settings.evaluate_every, settings.keep_evaluated_exports
        self._background = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self._running: _Running | None = None
        self._abandoned = False

    def folder(self, step: int) -> pathlib.Path:
        """Return the folder of a step's evaluation."""
        return self._workdir / FOLDER / f"step-{step:08d}"

    def resume(self, step: int, parameters: Any) -> None:
        """Finish the evaluations that were started before the run stopped at `step`, and log missing results."""
        steps = range(self._every, step + 1, self._every) if self._every else ()
        logged = {
            line["step"]
            for line in read_metrics(self._workdir / METRICS_FILE)
            if any(name.startswith("evaluation/") for name in line)
        }
        for each, progress in zip(steps, self._progress(steps), strict=True):
            if progress == _Progress.DONE and each not in logged:
                self._log(each, self._read_scalars(each))
            elif progress == _Progress.EXPORTED:
                self._start(each)
            elif progress == _Progress.NOT_STARTED and each == step:
                self.after(step, parameters)

    def after(self, step: int, parameters: Any) -> None:
        """Evaluate the parameters of a step if an evaluation is due; log an earlier one that has finished."""
        if self._running is not None and self._running.scalars.done():
            self.finish()
        if not self._every or step % self._every:
            return
        (progress,) = self._progress([step])
        if progress == _Progress.DONE:
            self._log(step, self._read_scalars(step))
            return
        if progress == _Progress.NOT_STARTED:
            self._export(step, parameters)
        self._start(step)

    def finish(self) -> None:
        """Wait for the running evaluation, if any, and log its results."""
        running, self._running = self._running, None
        if running is None:
            return
        try:
            scalars = running.scalars.result()
        except Exception as error:
            logger.warning(
                f"the evaluation at step {running.step} failed ({first_line(error)}). It is repeated when the run is "
                "resumed."
            )
            return
        self._log(running.step, scalars, note=f"  embedded in {format_duration(running.embedding_seconds)}")

    def rollback(self, step: int) -> None:
        """Delete the evaluations of steps after `step`: they will have other parameters."""
        if self._running is not None:
            concurrent.futures.wait([self._running.scalars])
            self._running = None
        if jax.process_index() == 0:
            for folder in self._workdir.glob(f"{FOLDER}/step-*"):
                if int(folder.name.removeprefix("step-")) > step:
                    shutil.rmtree(folder)

    def abandon(self) -> None:
        """Leave the running evaluation to the next call of the run: `close` does not wait for it."""
        self._abandoned = True

    def close(self) -> None:
        """Wait for the background thread, unless it is abandoned."""
        self._background.shutdown(wait=not self._abandoned, cancel_futures=self._abandoned)

    def _progress(self, steps: Sequence[int]) -> np.ndarray:
        """Return the progress of the evaluation of each step, as the first host sees it."""
        progress = np.zeros(len(steps), np.int32)
        if jax.process_index() == 0:
            for number, step in enumerate(steps):
                if (self.folder(step) / SCALARS_FILE).is_file():
                    progress[number] = _Progress.DONE
                elif (self.folder(step) / EXPORT).is_dir():
                    progress[number] = _Progress.EXPORTED
        several = jax.process_count() > 1 and len(progress) > 0
        return multihost_utils.broadcast_one_to_all(progress) if several else progress

    def _read_scalars(self, step: int) -> dict[str, float]:
        return json.loads((self.folder(step) / SCALARS_FILE).read_text(encoding="utf-8"))

    def _export(self, step: int, parameters: Any) -> None:
        gathered = jax.tree.map(_gather, parameters)
        if jax.process_index() == 0:
            self._write_export(self.folder(step) / EXPORT, step=step, parameters=gathered)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"exported step {step}")

    def _start(self, step: int) -> None:
        self.finish()  # at most one runs at a time
        start = time.monotonic()
        finish = self._evaluate(step, self.folder(step) / EXPORT)
        if jax.process_index() == 0:
            scalars = self._background.submit(self._complete, step, finish)
            self._running = _Running(step, time.monotonic() - start, scalars)

    def _complete(self, step: int, finish: Finish) -> dict[str, float]:
        scalars = dict(finish())
        write_json(self.folder(step) / SCALARS_FILE, scalars)
        if not self._keep_exports:
            shutil.rmtree(self.folder(step) / EXPORT)
        return scalars

    def _log(self, step: int, scalars: Mapping[str, float], *, note: str = "") -> None:
        if self._writer is not None:
            self._writer.write(step, {f"evaluation/{name}": value for name, value in scalars.items()})
            shown = [f"{name} {value:.1%}" for name, value in list(scalars.items())[:_SHOWN]]
            shown += [f"{len(scalars) - _SHOWN} more"] if len(scalars) > _SHOWN else []
            logger.info(f"evaluation at step {step}  {'  '.join(shown)}{note}")


def _gather(leaf: jax.Array) -> np.ndarray | None:
    """Return a sharded array on the first host and None on other hosts; all hosts must call it."""
    if jax.process_count() == 1:
        return np.asarray(leaf)
    array = multihost_utils.process_allgather(leaf, tiled=True)
    return array if jax.process_index() == 0 else None

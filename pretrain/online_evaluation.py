"""Evaluations while a run trains: what was handed in is called with an export, and what it finds is logged."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from foundation.progress import format_duration
from pretrain.checkpointing.export import export_parameters
from pretrain.config.run import PretrainSettings
from pretrain.monitoring.metric_writer import MetricsWriter, read_metrics

logger = logging.getLogger(__name__)

FOLDER, EXPORT, SCALARS_FILE = "evaluations", "export", "scalars.json"
_NOTHING, _EXPORTED, _DONE = range(3)
_SHOWN = 6  # scalars of a progress line

Finish = Callable[[], Mapping[str, float]]
Evaluate = Callable[[int, pathlib.Path], Finish]
"""Called by all hosts with a step and an exported checkpoint, while the devices wait: what needs them is done now.

What it returns is called by the first host alone, in the background, and returns scalars by name; it must use nothing
that hosts or devices share.
"""


class _Running(NamedTuple):
    step: int
    embedding: float  # seconds
    scalars: concurrent.futures.Future


class Evaluations:
    """Those of a run, each in `workdir/evaluations/step-…`; at most one is not finished while training goes on.

    An evaluation that failed in the background is told, and tried again when the run is continued: its export stays.
    Only the first host has a `writer`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        settings: PretrainSettings,
        evaluate: Evaluate | None,
        *,
        writer: MetricsWriter | None,
    ):
        self._workdir, self._evaluate, self._writer = workdir, evaluate, writer
        self._every, self._keep = settings.evaluate_every, settings.keep_evaluated_exports
        self._background = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self._running: _Running | None = None

    def folder(self, step: int) -> pathlib.Path:
        """Returns the folder of a step's evaluation."""
        return self._workdir / FOLDER / f"step-{step:08d}"

    def resume(self, step: int, parameters: Any) -> None:
        """Finishes what the run left when it ended at `step`: evaluations begun, and numbers that were not logged."""
        steps = range(self._every, step + 1, self._every) if self._every else ()
        states = self._states(steps)
        logged = {
            line["step"]
            for line in read_metrics(self._workdir / "metrics.jsonl")
            if any(name.startswith("evaluation/") for name in line)
        }
        for each, state in zip(steps, states, strict=True):
            if state == _DONE and each not in logged:
                self._log(each, json.loads((self.folder(each) / SCALARS_FILE).read_text(encoding="utf-8")))
            elif state == _EXPORTED:
                self._begin(each)
            elif state == _NOTHING and each == step:
                self.after(step, parameters)

    def after(self, step: int, parameters: Any) -> None:
        """Evaluates the parameters of a step, where it is its turn; logs what was found meanwhile."""
        if self._running is not None and self._running.scalars.done():
            self.finish()
        if not self._every or step % self._every:
            return
        (state,) = self._states([step])
        if state == _DONE:
            self._log(step, json.loads((self.folder(step) / SCALARS_FILE).read_text(encoding="utf-8")))
            return
        if state == _NOTHING:
            self._export(step, parameters)
        self._begin(step)

    def finish(self) -> None:
        """Waits for the evaluation that is not finished, if there is one, and logs what it found."""
        running, self._running = self._running, None
        if running is None:
            return
        try:
            scalars = running.scalars.result()
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            logger.info(f"note: the evaluation at step {running.step} failed, and is tried again next time: {reason}")
            return
        self._log(running.step, scalars, f"  embedded in {format_duration(running.embedding)}")

    def back_to(self, step: int) -> None:
        """Forgets the evaluations of later steps, which will have other parameters."""
        if self._running is not None:
            concurrent.futures.wait([self._running.scalars])
            self._running = None
        if jax.process_index() == 0:
            for folder in self._workdir.glob(f"{FOLDER}/step-*"):
                if int(folder.name.removeprefix("step-")) > step:
                    shutil.rmtree(folder)

    def close(self, *, wait: bool = True) -> None:
        """Waits until nothing runs any more; without `wait` what runs is left to be done when the run is continued."""
        self._background.shutdown(wait=wait, cancel_futures=not wait)

    def _states(self, steps: Any) -> np.ndarray:
        """Returns how far the evaluation of each step is, as the first host sees it."""
        states = np.zeros(len(steps), np.int32)
        if jax.process_index() == 0:
            for number, step in enumerate(steps):
                done, exported = self.folder(step) / SCALARS_FILE, self.folder(step) / EXPORT
                states[number] = _DONE if done.is_file() else _EXPORTED if exported.is_dir() else _NOTHING
        return multihost_utils.broadcast_one_to_all(states) if jax.process_count() > 1 and len(states) else states

    def _export(self, step: int, parameters: Any) -> None:
        gathered = jax.tree.map(_whole, parameters)
        if jax.process_index() == 0:
            export_parameters(self._workdir, self.folder(step) / EXPORT, step, gathered)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"exported step {step}")

    def _begin(self, step: int) -> None:
        self.finish()  # at most one behind
        began = time.monotonic()
        found = self._evaluate(step, self.folder(step) / EXPORT)
        if jax.process_index() == 0:
            scalars = self._background.submit(self._complete, step, found)
            self._running = _Running(step, time.monotonic() - began, scalars)

    def _complete(self, step: int, found: Finish) -> dict[str, float]:
        scalars, folder = dict(found()), self.folder(step)
        partial = folder / f"{SCALARS_FILE}.partial"
        partial.write_text(json.dumps(scalars, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder / SCALARS_FILE)
        if not self._keep:
            shutil.rmtree(folder / EXPORT)
        return scalars

    def _log(self, step: int, scalars: Mapping[str, float], note: str = "") -> None:
        if self._writer is not None:
            self._writer.write(step, {f"evaluation/{name}": value for name, value in scalars.items()})
            shown = [f"{name} {value:.1%}" for name, value in list(scalars.items())[:_SHOWN]]
            shown += [f"{len(scalars) - _SHOWN} more"] if len(scalars) > _SHOWN else []
            logger.info(f"evaluation at step {step}  {'  '.join(shown)}{note}")


def _whole(leaf: jax.Array) -> np.ndarray | None:
    """Returns an array that is spread over devices, on the first host; all hosts must ask for it."""
    if jax.process_count() == 1:
        return np.asarray(leaf)
    array = multihost_utils.process_allgather(leaf, tiled=True)
    return array if jax.process_index() == 0 else None

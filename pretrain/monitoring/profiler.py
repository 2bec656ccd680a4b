"""A trace of some steps of a run, which TensorBoard and Perfetto open."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import jax

logger = logging.getLogger(__name__)


class Profile:
    """Traces the steps from the first to the last of `steps`, or none where it is empty, into `folder`."""

    def __init__(self, folder: pathlib.Path, steps: tuple[int, ...]):
        self._folder, self._steps = folder, steps
        self._running = False

    def before(self, step: int, metrics: Any) -> None:
        """Begins where this is the first step; `metrics` are those of the step before, which is waited for."""
        if self._steps and step == self._steps[0]:
            jax.block_until_ready(metrics)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it crashed where threads begin and end meanwhile
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True

    def after(self, step: int, metrics: Any) -> None:
        """Ends where this is the last step."""
        if self._running and step >= self._steps[1]:
            jax.block_until_ready(metrics)
            self.close()
            first, last = self._steps
            logger.info(f"steps {first} to {last} are traced in {self._folder}")

    def close(self) -> None:
        """Ends a trace that is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

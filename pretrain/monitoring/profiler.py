"""Traces of training steps for TensorBoard and Perfetto."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import jax

logger = logging.getLogger(__name__)


class Profile:
    """Trace the steps from the first to the last of `steps` into `folder`; an empty tuple traces none."""

    def __init__(self, folder: pathlib.Path, steps: tuple[int, ...]):
        self._folder, self._steps = folder, steps
        self._running = False

    def before(self, step: int, metrics: Any) -> None:
        """Start the trace if this is the first step, once `metrics`, those of the step before, are computed."""
        if self._steps and step == self._steps[0]:
            jax.block_until_ready(metrics)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it crashed when threads started or ended during the trace
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True

    def after(self, step: int, metrics: Any) -> None:
        """Stop the trace if this is the last step, once its `metrics` are computed."""
        if self._running and step >= self._steps[1]:
            jax.block_until_ready(metrics)
            self.close()
            first, last = self._steps
            logger.info(f"steps {first} to {last} are traced in {self._folder}")

    def close(self) -> None:
        """Stop a running trace."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

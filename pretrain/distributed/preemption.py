"""The wish of a scheduler, told by SIGTERM, that a run ends soon."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Knows, while it is entered, whether the run is to save what it has and end.

    Of several processes each may get the signal at its own time, or only one; JAX's coordination service then finds the
    step at which all of them end. A second signal to a process that is alone interrupts it at once.
    """

    def __init__(self) -> None:
        self._told = False
        self._before: Any = None

    def __enter__(self) -> Preemption:
        alone = jax.process_count() == 1  # with others JAX listens itself
        if alone and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def is_due(self, step: int) -> bool:
        """Whether to end after `step`; all processes must ask after each step, and get the same answer."""
        if jax.process_count() == 1:
            return self._told
        return multihost_utils.reached_preemption_sync_point(step)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        if self._told:
            raise KeyboardInterrupt
        self._told = True

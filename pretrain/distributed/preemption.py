"""Handle preemption by SIGTERM: the scheduler asks a run to save its state and exit."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Records, as a context manager, whether the scheduler has asked the run to exit.

    If the run has several processes, they may receive the signal at different times, or only one of them may
    receive it; JAX's coordination service then finds a step after which all of them exit. If it has one process, a
    second signal interrupts it immediately.
    """

    def __init__(self) -> None:
        self._received = False
        self._previous_handler: Any = None

    def __enter__(self) -> Preemption:
        single = jax.process_count() == 1  # JAX handles the signal if there are several
        if single and threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def is_due(self, step: int) -> bool:
        """Return whether to exit after `step`; every process must ask after every step and gets the same answer."""
        if jax.process_count() == 1:
            return self._received
        return multihost_utils.reached_preemption_sync_point(step)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True

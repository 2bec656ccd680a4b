"""Tells when a run stands still, and where each of its threads is."""

from __future__ import annotations

import faulthandler
import logging
import os
import pathlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from foundation.progress import format_duration

logger = logging.getLogger(__name__)


class Watchdog:
    """Writes the stacks of all threads to `path` and tells so when no step has ended for `seconds`; 0 is never.

    With `end` it ends the process then, with exit code 1: a scheduler can begin anew, while a collective that waits for
    a lost host waits for ever. The clock runs between the first `beat` and `close`.
    """

    def __init__(self, path: pathlib.Path, *, seconds: float, end: bool):
        self._path, self._seconds, self._end = path, seconds, end
        self._last: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if seconds > 0:
            self._thread.start()

    def beat(self) -> None:
        """Notes that a step has ended."""
        self._last = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what is done within."""
        last, self._last = self._last, None
        yield
        self._last = last and time.monotonic()

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()

    def _watch(self) -> None:
        told = None
        while not self._closed.wait(min(self._seconds / 4, 10.0)):
            last = self._last
            if last is None or last == told or time.monotonic() - last < self._seconds:
                continue
            told = last
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(f"no step for {self._seconds:.0f} s, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            since = format_duration(self._seconds)
            logger.warning(f"no step has ended for {since}; {self._path} says where each thread is")
            if self._end:
                os._exit(1)

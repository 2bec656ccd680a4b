"""A watchdog that writes the stacks of all threads when a run stalls."""

from __future__ import annotations

import faulthandler
import logging
import pathlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from foundation.progress import format_duration

logger = logging.getLogger(__name__)


class Watchdog:
    """Write the stacks of all threads to `path` when no step has ended for `seconds` (0: never).

    With `end`, the process then ends with exit code 1, so that a scheduler can restart it; a collective operation that
    waits for a lost host would wait forever. The clock runs between the first `beat` and `close`. The timer is
    `faulthandler`'s, which also works while a thread holds the GIL.
    """

    def __init__(self, path: pathlib.Path, *, seconds: float, end: bool):
        self._path, self._seconds, self._end = path, seconds, end
        self._interval = min(seconds / 4, 10.0)
        self._last_beat: float | None = None
        self._closed = threading.Event()
        if seconds > 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()
            # faulthandler cannot log, and whoever follows the log must see a stall while it lasts: hence a thread.
            threading.Thread(target=self._warn, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Note that a step has ended."""
        if self._seconds > 0 and not self._closed.is_set():
            self._last_beat = time.monotonic()
            delay = self._seconds + 2 * self._interval  # the warning comes first
            faulthandler.dump_traceback_later(delay, exit=self._end, file=self._file)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the body from the time without a step."""
        was_running = self._last_beat is not None
        self._stop()
        yield
        if was_running:
            self.beat()

    def close(self) -> None:
        """Stop watching, and remove the file if nothing was written to it."""
        if self._seconds > 0 and not self._closed.is_set():
            self._closed.set()
            self._stop()
            self._file.close()
            if self._path.stat().st_size == 0:
                self._path.unlink()
                with suppress(OSError):  # another process has its file there
                    self._path.parent.rmdir()

    def _stop(self) -> None:
        if self._last_beat is not None:
            self._last_beat = None
            faulthandler.cancel_dump_traceback_later()

    def _warn(self) -> None:
        warned = None
        while not self._closed.wait(self._interval):
            last = self._last_beat
            if last is None or last == warned or time.monotonic() - last < self._seconds:
                continue
            warned = last
            self._file.write(f"no step for {self._seconds:.0f} s, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            self._file.flush()
            consequence = " and end the process" if self._end else ""
            logger.warning(
                f"no step has ended for {format_duration(self._seconds)}; the watchdog will write the stacks of all "
                f"threads to {self._path}{consequence}"
            )

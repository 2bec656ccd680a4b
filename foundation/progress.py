"""Progress of long loops: a live bar on a terminal, and a plain line now and then when the output is piped."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

from foundation.console import printable
from foundation.log import is_first_process

T = TypeVar("T")

LIVE_INTERVAL = 0.2  # seconds between two states of a live bar
LINE_INTERVAL = 10.0  # seconds between two lines when the output is piped
_DELAY = 2.0  # seconds that a loop may take without showing its progress

_LIVE = "{desc} {n_fmt}/{total_fmt} |{bar}| {remaining} left  {text}"
_LINE = "{desc} {n_fmt}/{total_fmt}  {text}  {remaining} left"


class _LiveBar(tqdm):
    """A tqdm bar with a field `text`."""

    monitor_interval = 0  # no thread that redraws: every update may draw
    text = ""

    @property
    def format_dict(self):
        return super().format_dict | {"text": self.text}


_LiveBar.set_lock(threading.RLock())  # tqdm's own lock is for several processes and starts one in Python 3.14


class ProgressBar:
    """The progress of one loop: items done and in total, rate and time left; only the first process of a run shows it.

    Nothing is shown in the first `delay` seconds. `start` items were done before the loop began and do not count for
    the rate. `unit` names the items of the rate; "B" shows sizes as kB, MB and so on. When the output is piped, lines
    are at least `line_interval` seconds apart, except for the last. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        total: int,
        *,
        description: str,
        unit: str = "",
        start: int = 0,
        delay: float = 0.0,
        line_interval: float = LINE_INTERVAL,
        stream: TextIO | None = None,
    ):
        description = printable(description)
        self.total, self.done = total, start
        self._start, self._shown, self._began = start, start, time.monotonic()
        self._next_line, self._line_interval = self._began + delay, line_interval
        self._delay, self._text = delay, ""
        self._stream = stream or sys.stdout
        self._unit, scaled = (unit, True) if unit in ("", "B") else (f" {unit}", False)
        self._format = {"prefix": description, "unit_scale": scaled and unit == "B", "unit": "B" if unit == "B" else ""}
        self._enabled = is_first_process()
        self._live: _LiveBar | None = None
        if self._enabled and _has_live_bars(self._stream):
            self._live = _LiveBar(
                desc=description,
                total=total,
                initial=start,
                unit=self._format["unit"],
                unit_scale=self._format["unit_scale"],
                bar_format=_LIVE,
                smoothing=0,  # the mean rate since the start
                mininterval=LIVE_INTERVAL,
                miniters=1,
                delay=delay,
                dynamic_ncols=True,
                file=self._stream,
            )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """Note that `count` more items are done."""
        self.show(self.done + count)

    def show(self, done: int, text: str = "") -> None:
        """Note that `done` items are done, and show `text` instead of the rate if there is one."""
        self.done, self._text = done, printable(text)
        if self._live is not None:
            self._live.text = text or self._rate()
            self._live.update(done - self._live.n)
        elif self._enabled and done != self._shown and time.monotonic() >= self._next_line:
            self._write_line()

    def restart(self, done: int) -> None:
        """Leave everything up to now, such as a compilation, out of the rate."""
        self.done = self._start = done
        self._began = time.monotonic()
        if self._live is not None:
            self._live.n = self._live.initial = done
            self._live.unpause()
            self._live.start_t = self._live.last_print_t

    def close(self) -> None:
        """Show the last state."""
        if self._live is not None:
            self._live.close()
        elif self._enabled and self.done != self._shown and time.monotonic() >= self._began + self._delay:
            self._write_line()
        self._enabled = False

    def _write_line(self) -> None:
        self._shown, self._next_line = self.done, time.monotonic() + self._line_interval
        elapsed = max(time.monotonic() - self._began, 1e-9)
        line = tqdm.format_meter(
            self.done,
            self.total,
            elapsed,
            initial=self._start,
            bar_format=_LINE,
            text=self._text or self._rate(),
            **self._format,
        )
        print(line, file=self._stream, flush=True)

    def _rate(self) -> str:
        rate = (self.done - self._start) / max(time.monotonic() - self._began, 1e-9)
        return f"{tqdm.format_sizeof(rate, self._unit)}/s"


class ProgressBars:
    """The progress of several named loops, for functions that report `(name, done, total)`."""

    def __init__(self, *, stream: TextIO | None = None):
        self._stream = stream
        self._bars: dict[str, ProgressBar] = {}

    def show(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` items of a loop are done; the first report of a loop sets its start."""
        if name not in self._bars:
            if done < total:
                self._bars[name] = ProgressBar(total, description=name, start=done, stream=self._stream)
            return
        bar = self._bars[name]
        bar.show(done)
        if done >= total:
            self._bars.pop(name).close()


def track(items: Iterable[T], *, total: int, description: str, unit: str = "") -> Iterator[T]:
    """Yield the items and show how many of `total` are done, if that takes longer than two seconds."""
    with ProgressBar(total, description=description, unit=unit, delay=_DELAY) as bar:
        for item in items:
            yield item
            bar.update()


def _has_live_bars(stream: TextIO) -> bool:
    """Return whether a stream is a terminal; one of zero columns, as in some containers, gets plain lines."""
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        return True


def write_line(text: str) -> None:
    """Print a line above the live bars."""
    _LiveBar.write(text, file=sys.stdout)
    sys.stdout.flush()


def format_duration(seconds: float) -> str:
    """Return seconds as `1h02m`, `3m20s` or `7s`."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"

"""How a job of launch.py ends: its exit codes, and errors as sentences."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
LOST = 76  # another process is gone; why, only that one knows, so whoever started all must look at its exit code too
LOST_OTHERS = ConnectionError(
    "another process of this run has ended or cannot be reached; its own output says why, and the same command goes on "
    "at the last checkpoint"
)

_MOMENT = 0.05  # seconds
_LOST = re.compile(r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Bb]arrier|coordination service")


class Terminated(KeyboardInterrupt):
    """SIGTERM came: it ends a job as an interruption does.

    `came` tells so where code that it ran into has made another error of it, as the import of a C++ library does.
    """

    came = False


def end_by_signal(number: int, frame: FrameType | None) -> None:
    """Raises `Terminated`."""
    Terminated.came = True
    raise Terminated


def has_others() -> bool:
    """Whether this process has joined others."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def lost_others(error: Exception) -> bool:
    """Whether an error is that of a collective or a barrier whose other processes are gone."""
    if not has_others():
        return False
    return isinstance(error, sys.modules["jax"].errors.JaxRuntimeError) or bool(_LOST.search(str(error)))


def on_unraisable(unraisable: object) -> None:
    """A hook for `sys.unraisablehook`, for what came where Python raises nothing, as in a garbage collection.

    An interruption comes again in a moment. What storage still reports after its error has been told is left out.
    """
    error = getattr(unraisable, "exc_value", None)
    if isinstance(error, KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        again = threading.Timer(_MOMENT, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
    elif not (isinstance(error, RuntimeError) and "Event loop is closed" in str(error)):
        sys.__unraisablehook__(unraisable)  # type: ignore[arg-type]


def end(code: int) -> NoReturn:
    """Ends this process; where it is to be run again, or has lost others, nothing that still runs is waited for."""
    if code == RUN_AGAIN or (code and has_others()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

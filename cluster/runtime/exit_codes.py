"""Exit codes of launch.py, and the signals and errors that lead to them."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_PEER_LOST = 76  # another process has ended; only its own exit code says whether to run the same command again
PEER_LOST = ConnectionError(
    "another process of this run has ended or cannot be reached. Its own output says why. Start all processes again to "
    "resume from the last checkpoint."
)

_RETRY_SECONDS = 0.05
_PEER_LOST_TEXT = re.compile(r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Bb]arrier|coordination service")


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised as an interruption of the job.

    `received` stays true if the interrupted code replaces the exception, as the import of a C++ library does.
    """

    received = False


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Raise `Terminated`; a handler for `signal.signal`."""
    Terminated.received = True
    raise Terminated


def has_peers() -> bool:
    """Return whether this process has joined other processes."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def is_peer_lost(error: Exception) -> bool:
    """Return whether an error comes from a collective or a barrier whose other processes have ended."""
    if not has_peers():
        return False
    return isinstance(error, sys.modules["jax"].errors.JaxRuntimeError) or bool(_PEER_LOST_TEXT.search(str(error)))


def handle_unraisable(unraisable: object) -> None:
    """Repeat an interruption that Python could not raise, as during a garbage collection; for `sys.unraisablehook`.

    Errors that storage libraries repeat after the job has reported them are dropped.
    """
    error = getattr(unraisable, "exc_value", None)
    if isinstance(error, KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        retry = threading.Timer(_RETRY_SECONDS, os.kill, (os.getpid(), number))
        retry.daemon = True
        retry.start()
    elif not _is_repeated(error):
        sys.__unraisablehook__(unraisable)  # type: ignore[arg-type]


def handle_thread_error(thread_error: threading.ExceptHookArgs) -> None:
    """Print the traceback of an error that ended a thread, unless the job reports it; for `threading.excepthook`."""
    if not _is_repeated(thread_error.exc_value):
        threading.__excepthook__(thread_error)


def is_not_repeated(record: logging.LogRecord) -> bool:
    """Filter out log records of errors that the job reports, as those of callbacks; for `logging.Logger.addFilter`."""
    return not (record.exc_info and _is_repeated(record.exc_info[1]))


def _is_repeated(error: BaseException | None) -> bool:
    """Return whether storage libraries repeat an error: their tasks end after the loop that reported the first one."""
    return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)


def exit_process(code: int) -> NoReturn:
    """Exit; a preempted process, or one that failed among several, does not wait for its threads."""
    if code == EXIT_PREEMPTED or (code and has_peers()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

"""The console log of a job: plain lines on standard output, from the first process of a run only."""

from __future__ import annotations

import contextvars
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from foundation.console import printable

_silenced: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("silenced", default=())

PACKAGES = ("launch", "jobs", "pretrain", "adapt", "data", "models", "cluster", "foundation", "benchmarks")


class _Console(logging.Handler):
    """Write each message as a line, without control characters; warnings and errors get their level as a prefix."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        try:
            _write_line(prefix + printable(record.getMessage()))
        except Exception:  # as logging's own handlers do
            self.handleError(record)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR and record.name.partition(".")[0] in _silenced.get():
            return False
        return super().filter(record) and is_first_process()


def configure(*, level: int = logging.INFO) -> None:
    """Send the messages of the project's packages to standard output, those of `level` and above."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False  # libraries put handlers of their own on the root logger
        if not any(isinstance(handler, _Console) for handler in logger.handlers):
            logger.addHandler(_Console())


@contextmanager
def silenced(*packages: str) -> Iterator[None]:
    """Drop the messages of some packages below the level of errors, in this thread only."""
    token = _silenced.set((*_silenced.get(), *packages))
    try:
        yield
    finally:
        _silenced.reset(token)


def _write_line(line: str) -> None:
    progress = sys.modules.get("foundation.progress")  # not imported for this: without it there are no live bars
    if progress is None:
        print(line, flush=True)
    else:
        progress.write_line(line)


def is_first_process() -> bool:
    """Return False in all but the first process of a distributed run."""
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "distributed") or not jax.distributed.is_initialized():
        return True
    return jax.process_index() == 0

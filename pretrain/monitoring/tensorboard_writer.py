"""Scalars in TensorBoard event files, written in the calling thread.

tensorboardX's own writer passes events to a thread. If that thread dies, for example because the disk is full, the run
waits for it forever. Here the caller gets the error.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

_FLUSH_SECONDS = 10.0


class EventFile:
    """A new event file in `folder`; from `purge_step` on, TensorBoard hides the events of older files."""

    def __init__(self, folder: pathlib.Path, *, purge_step: int):
        with _without("torch", "boto3"):
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.summary import scalar

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._scalar = Event, scalar
        self._writer = EventsWriter(str(folder / "events"))
        self._writer.write_event(Event(step=purge_step, file_version="brain.Event:2"))
        self._writer.write_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._last_flush = time.monotonic()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step; they are flushed at most ten seconds later."""
        for name, value in metrics.items():
            summary = self._scalar(name, value)
            self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._last_flush > _FLUSH_SECONDS:
            self._writer.flush()
            self._last_flush = time.monotonic()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Let imports in the block not find some packages: tensorboardX imports optional ones, which takes seconds."""
    finder = _Absent(packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Absent:
    """A finder of modules that raises for `names`."""

    def __init__(self, names: Sequence[str]):
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"{name} is not needed here", name=name)

"""Scalars in TensorBoard's event files, written in the thread that calls.

tensorboardX's own writer hands events to a thread; when that one dies, of a full disk for example, the run waits for it
for ever. Here an error is the caller's.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping

_FLUSH_SECONDS = 10.0


class EventFile:
    """A new event file in `folder`; TensorBoard hides what older ones have from `purge_step` on."""

    def __init__(self, folder: pathlib.Path, *, purge_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._scalar = Event, scalar
        self._writer = EventsWriter(str(folder / "events"))
        self._writer.write_event(Event(step=purge_step, file_version="brain.Event:2"))
        self._writer.write_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._flushed = time.monotonic()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of a step; they are on disk ten seconds later."""
        for name, value in metrics.items():
            summary = self._scalar(name, value)
            self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()

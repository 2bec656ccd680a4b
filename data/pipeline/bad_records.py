"""Keeps account of the samples that could not be used, and ends a run that has too many of them."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from data.sources.base import REASONS

logger = logging.getLogger(__name__)

_TOLD = 10  # bad records that are told as they come; the rest are in the file


class BadRecordTracker:
    """The bad records of a run, by reason.

    Each is written once to `path`, a JSON lines file, and the first few are logged. More than `max_share`
    of the last `window` records raise `ValueError`.
    """

    def __init__(
        self,
        *,
        max_share: float,
        window: int,
        path: str | os.PathLike | None = None,
    ):
        self.counts: collections.Counter[str] = collections.Counter()
        self._max_share = max_share
        self._path = None if path is None else pathlib.Path(path)
        self._window: collections.deque[int] = collections.deque(maxlen=window)
        self._seen = {line["key"] for line in read_bad_records(self._path)} if self._path else set()
        if self._path and self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            with open(self._path, "a", encoding="utf-8") as file:  # of a line that was cut off
                file.write("\n")
        self._told = 0

    def count(self, failures: np.ndarray, key: Callable[[int, int], str], *, step: int) -> None:
        """Takes note of a batch: `failures` `[rows, attempts]` are codes of reasons, 0 where nothing failed.

        `key(row, attempt)` names the sample. Raises `ValueError` when too many records are bad.
        """
        for row in np.flatnonzero(failures.any(axis=1)):
            for attempt in np.flatnonzero(failures[row]):
                reason = REASONS[failures[row, attempt] - 1]
                self.counts[reason] += 1
                self._note({"key": key(int(row), int(attempt)), "reason": reason, "step": step})
        # A row is tried until a record is good: each failure is a record, and so is what came of it.
        for codes in failures:
            self._window.extend([*codes[codes > 0].tolist(), 0])
            bad = len(self._window) - self._window.count(0) if codes.any() else 0
            if bad > self._max_share * (self._window.maxlen or 0):
                raise ValueError(self._sentence(bad))

    def _note(self, line: Mapping[str, str | int]) -> None:
        if line["key"] in self._seen:
            return
        self._seen.add(line["key"])
        if self._path:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._told += 1
        if self._told <= _TOLD:
            more = f"; more are in {self._path} only" if self._told == _TOLD and self._path else ""
            logger.info(f"replaced {line['key']}: {line['reason']}{more}")

    def _sentence(self, bad: int) -> str:
        codes = collections.Counter(code for code in self._window if code)
        reasons = ", ".join(f"{count} {REASONS[code - 1]}" for code, count in codes.most_common())
        where = f"; {self._path} names them" if self._path else ""
        return (
            f"{bad} of the last {len(self._window):,} records cannot be used ({reasons}), more than data.max_bad_share "
            f"{self._max_share:.1%} of {self._window.maxlen:,} allows{where}; repair the data or raise the share"
        )


def read_bad_records(path: pathlib.Path) -> list[dict[str, str | int]]:
    """Returns the lines of a file that `BadRecordTracker` wrote, without any that were cut off; none for no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.split("\n"):
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines

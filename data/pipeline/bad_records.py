"""Report unusable samples, and stop a run that meets too many of them."""

from __future__ import annotations

import collections
import logging
import os
import pathlib
from collections.abc import Callable

import numpy as np

from data.sources.base import REASONS
from foundation.files.json_lines import append_json_lines, read_json_lines

logger = logging.getLogger(__name__)

_MAX_LOGGED = 10  # bad records that are logged; all are in the file


class BadRecordTracker:
    """Counts the bad records of a run by reason.

    Each bad record is written once to `path`, a JSON-lines file, and the first few are logged. If more than
    `max_share` of the last `window` records are bad, `count` raises `ValueError`.
    """

    def __init__(self, *, max_share: float, window: int, path: str | os.PathLike | None = None):
        self.counts: collections.Counter[str] = collections.Counter()
        self._max_share = max_share
        self._path = None if path is None else pathlib.Path(path)
        self._window: collections.deque[int] = collections.deque(maxlen=window)
        self._seen = {row["key"] for row in read_json_lines(self._path)} if self._path else set()
        self._logged = 0

    def count(self, failures: np.ndarray, key: Callable[[int, int], str], *, step: int) -> None:
        """Record the failures of a batch, `[rows, attempts]` reason codes with 0 for success.

        `key(row, attempt)` returns the key of the sample. Raises `ValueError` if too many records are bad.
        """
        new = []
        for row in np.flatnonzero(failures.any(axis=1)):
            for attempt in np.flatnonzero(failures[row]):
                reason = REASONS[failures[row, attempt] - 1]
                self.counts[reason] += 1
                name = key(int(row), int(attempt))
                if name not in self._seen:
                    self._seen.add(name)
                    new.append({"key": name, "reason": reason, "step": step})
        self._report(new)
        # A row is retried until a record is good, so it consists of its failures and one good record.
        for codes in failures:
            self._window.extend([*codes[codes > 0].tolist(), 0])
            bad = len(self._window) - self._window.count(0) if codes.any() else 0
            if bad > self._max_share * (self._window.maxlen or 0):
                raise ValueError(self._error_text(bad))

    def _report(self, rows: list[dict[str, str | int]]) -> None:
        if self._path and rows:
            append_json_lines(self._path, rows)
        for row in rows[: max(0, _MAX_LOGGED - self._logged)]:
            self._logged += 1
            last = self._logged == _MAX_LOGGED and self._path
            more = f"; further ones are listed only in {self._path}" if last else ""
            logger.info(f"replaced {row['key']}: {row['reason']}{more}")

    def _error_text(self, bad: int) -> str:
        codes = collections.Counter(code for code in self._window if code)
        reasons = ", ".join(f"{count} {REASONS[code - 1]}" for code, count in codes.most_common())
        listed = f" They are listed in {self._path}." if self._path else ""
        return (
            f"{bad} of the last {len(self._window):,} records cannot be used ({reasons}); data.max_bad_share allows "
            f"{self._max_share:.1%} of {self._window.maxlen:,}.{listed} Repair the data or raise data.max_bad_share."
        )

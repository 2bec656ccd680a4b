"""Files of an evaluation: one per finished unit of work, and one with all rows."""

from __future__ import annotations

import logging
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.io.fingerprint import fingerprint
from foundation.files.array_files import save_array
from foundation.files.checksum_file import SUMS_FILE, changed_files, write_checksums
from foundation.files.json_lines import append_json_line, parse_json_lines, read_json_lines, write_json_lines

logger = logging.getLogger(__name__)

RESULTS_FILE, COSTS_FILE = "results.jsonl", "costs.jsonl"
UNITS, PREDICTIONS = "units", "predictions"
VERSION = "1"


class Unit(NamedTuple):
    """A unit of work: the rows of one checkpoint, dataset, task and method; `key` is a hash of its dependencies."""

    name: str
    key: str

    @classmethod
    def create(cls, *parts: str, depends_on: Sequence[str]) -> Unit:
        """Return the unit with a readable name; `depends_on` are the fingerprints and settings behind its rows."""
        name = "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
        readable = name.encode()[:120].decode(errors="ignore")  # file systems count bytes
        return cls(readable, fingerprint(VERSION, *parts, *depends_on))

    def path(self, out: pathlib.Path) -> pathlib.Path:
        """Return the file of its rows."""
        return out / UNITS / f"{self.name}-{self.key}.jsonl"

    def predictions_path(self, out: pathlib.Path) -> pathlib.Path:
        """Return the file of the predicted classes, `[support sets, queries]`."""
        return out / PREDICTIONS / f"{self.name}-{self.key}.npy"

    def read(self, out: pathlib.Path) -> list[dict[str, Any]] | None:
        """Return its rows, or None where the unit is not finished."""
        try:
            rows = read_json_lines(self.path(out), appended=False)
        except ValueError:
            return None
        if not rows or rows[-1] != {"unit": self.key, "rows": len(rows) - 1}:
            return None
        return rows[:-1]

    def write(
        self, out: pathlib.Path, rows: Sequence[Mapping[str, Any]], *, predictions: np.ndarray | None = None
    ) -> None:
        """Write predictions and then rows: a unit with rows is complete."""
        if predictions is not None:
            save_array(self.predictions_path(out), predictions)
        write_json_lines(self.path(out), [*rows, {"unit": self.key, "rows": len(rows)}])


class MergedRows(NamedTuple):
    """The rows of all finished units, and the number of unfinished units."""

    rows: list[dict[str, Any]]
    missing: int


def merge(out: pathlib.Path, units: Sequence[Unit]) -> MergedRows:
    """Return the rows in the order of the units; write them to `results.jsonl` if every unit is finished.

    `SHA256SUMS` has its checksum. If a unit is not finished, a `results.jsonl` of other units is removed.
    """
    rows_of_units = [unit.read(out) for unit in units]
    if None in rows_of_units and discard_results(out):
        # Another shard may have finished the last unit and written the file in between: look again.
        rows_of_units = [unit.read(out) for unit in units]
    missing = sum(rows is None for rows in rows_of_units)
    rows = [row for rows in rows_of_units if rows is not None for row in rows]
    if not missing:
        write_json_lines(out / RESULTS_FILE, rows)
        write_checksums(out, [RESULTS_FILE])
    return MergedRows(rows, missing)


def discard_results(out: pathlib.Path) -> bool:
    """Remove `results.jsonl` and its checksum, before a unit is computed that it lacks; return whether it existed.

    Otherwise, the rows of other settings would be taken for those of an evaluation that runs or was interrupted. All
    finished units stay, and `merge` writes the file again.
    """
    path = out / RESULTS_FILE
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    (out / SUMS_FILE).unlink(missing_ok=True)
    logger.info(f"{path} is of other settings and is removed. It is written again when all units are finished.")
    return True


def append_cost(out: pathlib.Path, **cost: Any) -> None:
    """Append a line to `costs.jsonl`: the work done and its seconds."""
    append_json_line(out / COSTS_FILE, cost)


def read_results(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the rows that `evaluate` wrote to `folder`.

    Raises `FileNotFoundError` where it has not finished, and `ValueError` for rows that are damaged or do not have the
    checksum in `SHA256SUMS`.
    """
    folder = pathlib.Path(folder)
    path = folder / RESULTS_FILE
    if not path.is_file():
        finished = len(list((folder / UNITS).glob("*.jsonl"))) if (folder / UNITS).is_dir() else 0
        if finished:
            raise FileNotFoundError(
                f"{folder} has {finished} finished units but no {RESULTS_FILE}: the evaluation is running or was "
                "interrupted. Run the same `launch.py evaluate` command to resume it."
            )
        raise FileNotFoundError(f"{folder} has no {RESULTS_FILE}. Run `launch.py evaluate` to write it.")
    again = "Run the same `launch.py evaluate` command to write it again"
    if path.stat().st_size and changed_files(folder, [RESULTS_FILE]):
        raise ValueError(
            f"{path} is damaged or edited: it does not have the checksum in {SUMS_FILE}. {again}, or remove "
            f"{folder / SUMS_FILE} to use it as it is."
        )
    rows, damaged = parse_json_lines(path)
    if damaged or not rows:
        raise ValueError(f"{f'line {damaged[0]} of {path} is damaged' if damaged else f'{path} is empty'}. {again}.")
    return rows

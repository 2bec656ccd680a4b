"""What an evaluation leaves on disk: a file for each finished unit of work, and one of all rows."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.embedding.cache import save_array
from data.io.fingerprint import fingerprint
from foundation.atomic import write_text

RESULTS_FILE, COSTS_FILE = "results.jsonl", "costs.jsonl"
UNITS, PREDICTIONS = "units", "predictions"
VERSION = "1"


class Unit(NamedTuple):
    """The rows of one checkpoint, dataset, task and method; `key` is a hash of all that they depend on."""

    name: str
    key: str

    @classmethod
    def of(cls, *parts: str, depends: Sequence[str]) -> Unit:
        """Returns the unit with a readable name; `depends` are the fingerprints and settings of its rows."""
        name = "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
        return cls(name[:120], fingerprint(VERSION, *parts, *depends))

    def path(self, out: pathlib.Path) -> pathlib.Path:
        """Returns the file of its rows."""
        return out / UNITS / f"{self.name}-{self.key}.jsonl"

    def predictions_path(self, out: pathlib.Path) -> pathlib.Path:
        """Returns the file of the predicted classes, `[cases, queries]`."""
        return out / PREDICTIONS / f"{self.name}-{self.key}.npy"

    def read(self, out: pathlib.Path) -> list[dict[str, Any]] | None:
        """Returns its rows, or None where it is not finished."""
        try:
            lines = self.path(out).read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
        except (FileNotFoundError, ValueError):
            return None
        if not rows or rows[-1] != {"unit": self.key, "rows": len(rows) - 1}:
            return None
        return rows[:-1]

    def write(
        self, out: pathlib.Path, rows: Sequence[Mapping[str, Any]], predictions: np.ndarray | None = None
    ) -> None:
        """Writes predictions and rows, these last: a unit whose rows are there is whole."""
        if predictions is not None:
            save_array(self.predictions_path(out), predictions)
        lines = [*rows, {"unit": self.key, "rows": len(rows)}]
        write_text(self.path(out), "".join(_line(row) for row in lines))


def merge(out: pathlib.Path, units: Sequence[Unit]) -> tuple[list[dict[str, Any]], int]:
    """Returns all rows, in the order of the units, and how many units lack theirs; writes them where none does."""
    found = [unit.read(out) for unit in units]
    missing = sum(rows is None for rows in found)
    rows = [row for rows in found if rows is not None for row in rows]
    if not missing:
        write_text(out / RESULTS_FILE, "".join(map(_line, rows)))
    return rows, missing


def note_cost(out: pathlib.Path, **cost: Any) -> None:
    """Adds a line to the costs: what was done, and the seconds it took."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / COSTS_FILE, "a", encoding="utf-8") as file:
        file.write(_line(cost))


def read_results(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows that `evaluate` wrote to `folder`; raises `FileNotFoundError` where it did not finish."""
    folder = pathlib.Path(folder)
    path = folder / RESULTS_FILE
    if not path.is_file():
        begun = len(list((folder / UNITS).glob("*.jsonl"))) if (folder / UNITS).is_dir() else 0
        state = f"but {begun} finished units of an evaluation that goes on when it is run again" if begun else "yet"
        raise FileNotFoundError(f"{folder} holds no {RESULTS_FILE} {state}; `launch.py evaluate` writes it")
    return read_lines(path)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON lines, without one cut off at its end; none where there is no file."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"

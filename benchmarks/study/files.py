"""Files of the study: its runs, its CSV files, its page."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.machine import describe_machine
from foundation.files.atomic import write_text

ROOT = pathlib.Path(__file__).parents[2]
RUNS = ROOT / "runs" / "study"
RESULTS = ROOT / "docs" / "study"
PAGE = ROOT / "docs" / "results" / "study.md"
SWEEPS = ROOT / "configs" / "study"


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: pathlib.Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def replace_rows(path: pathlib.Path, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replace the rows of one table in a CSV file whose first column names the table."""
    others = [list(row.values()) for row in read_csv(path) if row["table"] != table] if path.exists() else []
    write_csv(path, columns, sorted([*others, *([str(cell) for cell in row] for row in rows)], key=lambda row: row[0]))


def record_runs(path: pathlib.Path, table: str, *, runs: int | str = "", seconds: float | None = None) -> None:
    """Record when and on which machine a table was made, with which versions, and how long its runs took."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax"))
    minutes = "" if seconds is None else f"{seconds / 60:.0f}"
    row = [table, datetime.date.today().isoformat(), describe_machine(), versions, runs, minutes]
    replace_rows(path, table, ["table", "date", "machine", "versions", "runs", "minutes"], [row])


def items_of(name: str) -> frozenset[str]:
    """Return the settings in an arm's name, whatever their order: "context True, alpha 0.5"."""
    return frozenset(name.split(", "))


def find_row(rows: Sequence[Mapping[str, str]], **wanted: str) -> Mapping[str, str] | None:
    """Return the first row with the `wanted` values, or None; the settings in `arm` may come in any order."""
    for row in rows:
        if all(items_of(row[k]) == items_of(v) if k == "arm" else row[k] == v for k, v in wanted.items()):
            return row
    return None

"""Configs compiled for the machines that they are for: the table of docs/results/machines.md, and a check of it.

    python -m benchmarks.compiled_configs                      # writes the table; about two minutes per row and core
    python -m benchmarks.compiled_configs --check --only=gpu_  # compiles the rows of configs/gpu_*, as CI does

`--check` writes nothing. It fails if a row does not fit its machine, if its program has faults, or if its peak differs
from the table by more than 2 %. With `--cache=FOLDER`, a row is compiled again only after a change of the code, the
config or the compiler. Needs requirements-compile-cuda12.txt, and libtpu for TPUs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from benchmarks.page_tables import put

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "machines.md"
TABLE = "machines"
SOURCES = ("configs", "data/pipeline", "foundation", "models", "pretrain")  # what a compiled step is made of
COMPILERS = ("jax", "jaxlib", "flax", "optax", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12", "libtpu")
COLUMNS = ("machine", "config", "model", "pairs per step", "`remat`", "peak per device", "at most, pairs/s")
TOLERANCE = 0.02  # of a peak


class MachineRow(NamedTuple):
    """A row of the table: the machine in words, its topology, a config, and its model in words."""

    machine: str
    topology: str
    config: str
    model: str


ROWS = (
    MachineRow("one L4, 24 GB", "l4:1", "one_gpu", "S/16"),
    MachineRow("one L4, 24 GB", "l4:1", "gpu_24gb", "B/16"),
    MachineRow("one RTX 4090, 24 GB", "rtx4090:1", "gpu_24gb", "B/16"),
    MachineRow("one A100, 80 GB", "a100:1", "gpu_80gb", "B/16"),
    MachineRow("one H100, 80 GB", "h100:1", "gpu_80gb", "B/16"),
    MachineRow("eight H100, 80 GB", "h100:8", "gpu_8x80gb", "B/16"),
    MachineRow("two hosts of eight H100", "h100:2x8", "gpu_2x8x80gb", "B/16"),
    MachineRow("256 TPU v5e", "v5e:16x16", "siglip_b16", "B/16"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile the rows; write the table, or compare with it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled_configs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="compare with the table instead of writing it")
    parser.add_argument("--only", default="", help="compile only configs whose names begin so, such as gpu_")
    parser.add_argument("--cache", type=pathlib.Path, help="folder for figures of compiled rows")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="compilations at a time")
    options = parser.parse_args(arguments)
    if options.only and not options.check:
        parser.error("--only needs --check: the table that is written has all rows")
    rows = [row for row in ROWS if row.config.startswith(options.only)]
    if not rows:
        parser.error(f"no config begins with {options.only!r}. Use one of {', '.join(row.config for row in ROWS)}.")
    with ThreadPoolExecutor(options.processes) as pool:
        found = list(pool.map(lambda row: compile_row(row, cache=options.cache), rows))
    table = [list(cells(row, figures)) for row, figures in zip(rows, found, strict=True)]
    print(write_table(table))
    if not options.check:
        put(write_table(table), TABLE, page=PAGE)
    faults = [fault for row, figures in zip(rows, found, strict=True) for fault in faults_of(row, figures)]
    if options.check:
        faults += differences(table, read_table(PAGE.read_text(encoding="utf-8")))
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    return 1 if faults else 0


def compile_row(row: MachineRow, *, cache: pathlib.Path | None = None) -> Mapping[str, Any]:
    """Return the figures that `launch.py compile --json` writes for a row; raises `RuntimeError` if it writes none."""
    kept = None if cache is None else cache / f"{fingerprint(row)}.json"
    if kept is not None and kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "figures.json"
        command = [sys.executable, "launch.py", "compile", f"--config=configs/{row.config}.py"]
        command += [f"--topology={row.topology}", f"--json={path}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not path.exists():
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        figures = json.loads(path.read_text(encoding="utf-8"))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def fingerprint(row: MachineRow) -> str:
    """Return a hash of everything that the figures of a row depend on."""
    digest = hashlib.sha256(repr((row, [_version(name) for name in COMPILERS])).encode())
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".txtpb"):
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cells(row: MachineRow, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row of the table."""
    micro = figures["microbatch_size"]
    pairs = f"{figures['batch_size']:,}" + (f" in microbatches of {micro:,}" if micro else "")
    return (
        f"{row.machine} (`{row.topology}`)",
        f"[{row.config}](../../configs/{row.config}.py)",
        row.model,
        pairs,
        f"`{figures['remat']}`",
        f"{figures['peak_bytes'] / 1e9:.1f} of {figures['usable_bytes'] / 1e9:.1f} GB",
        f"{figures['pairs_per_second_at_most']:,.0f}",
    )


def faults_of(row: MachineRow, figures: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the compiled step of a row, as sentences."""
    name = f"configs/{row.config}.py on {row.topology}"
    misfit = [] if figures["fits"] else [f"{name} needs {figures['peak_bytes'] / 1e9:.1f} GB per device"]
    return [*misfit, *(f"{name}: {fault}" for fault in figures["faults"])]


def write_table(table: Sequence[Sequence[str]]) -> str:
    """Return the table in Markdown."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *table]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def read_table(page: str) -> dict[tuple[str, str], float]:
    """Return the peaks in GB of the table on a page, by machine and config as the table shows them."""
    body = page.partition(f"<!-- {TABLE} -->")[2].partition(f"<!-- end of {TABLE} -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.split("\n") if " GB" in line]
    return {(row[0], row[1]): _peak(row) for row in rows}


def differences(table: Sequence[Sequence[str]], shown: Mapping[tuple[str, str], float]) -> list[str]:
    """Return what the compiled rows and the table on the page disagree about, as sentences."""
    found = []
    for row in table:
        peak, before = _peak(row), shown.get((row[0], row[1]))
        if before is None:
            found.append(f"docs/results/machines.md has no row for {row[0]} and {row[1]}")
        elif abs(peak - before) > TOLERANCE * before:
            found.append(f"{row[0]}, {row[1]}: {peak} GB, but docs/results/machines.md says {before} GB")
    return found


def _peak(row: Sequence[str]) -> float:
    return float(re.match(r"[\d.]+", row[COLUMNS.index("peak per device")])[0])


if __name__ == "__main__":
    sys.exit(main())

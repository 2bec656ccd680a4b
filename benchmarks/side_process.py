"""One side of a benchmark in a process of its own, which measures a part whenever it is asked to.

Sides that take turns see the same machine, and do not share caches, threads or memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.machine import HUGE_PAGES


class SideProcess(NamedTuple):
    """A running side: its process, and the facts that it reported once it was warm."""

    process: subprocess.Popen
    facts: dict[str, Any]

    def measure(self, part: str) -> float:
        """Return the seconds that the side takes for a part."""
        self.process.stdin.write(part + "\n")
        self.process.stdin.flush()
        return float(_read_line(self.process))

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def start_side(
    module: str, options: Sequence[str], *, huge_pages: bool, environment: Mapping[str, str] | None = None
) -> SideProcess:
    """Start `python -m module` with `options` and wait until it is warm."""
    variables = {**os.environ, **(environment or {})}
    variables.pop("GLIBC_TUNABLES", None)
    if huge_pages:
        variables["GLIBC_TUNABLES"] = HUGE_PAGES
    process = subprocess.Popen(
        [sys.executable, "-m", module, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )
    return SideProcess(process, json.loads(_read_line(process)))


def serve(facts: Mapping[str, Any], parts: Mapping[str, Callable[[], Any]]) -> None:
    """In the side's process: print the facts, then the seconds of each part that standard input names."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        parts[line.strip()]()
        print(time.perf_counter() - began, flush=True)


def _read_line(process: subprocess.Popen) -> str:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a side of the benchmark ended early with exit code {process.wait()}; its error is above")
    return line

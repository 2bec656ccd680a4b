"""Inject faults into runs and report what was lost.

    python -m benchmarks.faults                          # about half an hour on two cores
    python -m benchmarks.faults --only=killed,damaged

The long form of tests/fault_injection/test_faults.py. Needs root to mount small and read-only disks.
docs/results/reliability.md has its figures.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks.machine import describe_machine
from tests.fault_injection import faults
from tests.fault_injection.trials import Trial

WAYS = ((0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP))


class Fault(NamedTuple):
    """Steps of the run, steps between checkpoints, and the function that injects the fault."""

    steps: int
    checkpoint_every: int
    inject: Callable[[Trial], str]


FAULTS = {
    "killed": Fault(4000, 25, functools.partial(faults.killed, moments=50)),
    "killed in export": Fault(40, 20, functools.partial(faults.killed_in_export, moments=20)),
    "preempted": Fault(2500, 25, functools.partial(faults.preempted, moments=20)),
    "lost process": Fault(120, 10, functools.partial(faults.lost_process, ways=WAYS)),
    "devices": Fault(40, 5, faults.devices),
    "disk full": Fault(1500, 25, functools.partial(faults.disk_full, moments=10)),
    "damaged": Fault(40, 10, functools.partial(faults.damaged, trials=40)),
    "clock": Fault(400, 20, faults.clock),
    "data gone": Fault(200, 20, faults.data_gone),
    "object store": Fault(200, 20, faults.object_store),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row per fault; return 1 if a run lost anything."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help=f"faults to inject, separated by commas (default: {','.join(FAULTS)})")
    args = parser.parse_args(arguments)
    chosen = args.only.split(",") if args.only else list(FAULTS)
    unknown = [name for name in chosen if name not in FAULTS]
    if unknown:
        parser.error(f"unknown fault {unknown[0]!r}; known: {', '.join(FAULTS)}")
    import jax

    print(f"{describe_machine()}, jax {jax.__version__}\n", flush=True)
    print("| fault | result | seconds |\n|---|---|---|", flush=True)
    failed = 0
    for name in chosen:
        fault = FAULTS[name]
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            began = time.monotonic()
            try:
                result = fault.inject(Trial(pathlib.Path(folder), steps=fault.steps, every=fault.checkpoint_every))
            except Exception as error:
                failed += 1
                result = f"FAILED: {type(error).__name__} {str(error)[-600:]}"
            print(f"| {name} | {result} | {time.monotonic() - began:.0f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

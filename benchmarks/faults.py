"""Inject faults into runs and report what was lost: `python benchmarks/faults.py [--only=killed,damaged]`.

The long form of tests/fault_injection/test_faults.py, about half an hour on two cores. Needs root to mount small and
read-only disks. docs/RELIABILITY.md has its figures.
"""

import argparse
import functools
import os
import pathlib
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks.machine import describe_machine
from tests.fault_injection import faults
from tests.fault_injection.trials import Trial

WAYS = ((0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP))
# Of each fault the steps of the run, the steps between its checkpoints, and what is done.
FAULTS = {
    "killed": (4000, 25, functools.partial(faults.killed, moments=50)),
    "killed in export": (40, 20, functools.partial(faults.killed_in_export, moments=20)),
    "preempted": (2500, 25, functools.partial(faults.preempted, moments=20)),
    "lost process": (120, 10, functools.partial(faults.lost_process, ways=WAYS)),
    "devices": (40, 5, faults.devices),
    "disk full": (1500, 25, functools.partial(faults.disk_full, moments=10)),
    "damaged": (40, 10, functools.partial(faults.damaged, trials=40)),
    "clock": (400, 20, faults.clock),
    "data gone": (200, 20, faults.data_gone),
    "object store": (200, 20, faults.object_store),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help=f"faults by commas, of {', '.join(FAULTS)}")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else list(FAULTS)
    import jax

    print(
        f"{describe_machine()}, jax {jax.__version__}\n\n| fault | what was seen | seconds |\n|---|---|---|", flush=True
    )
    failed = 0
    for name in chosen:
        steps, every, fault = FAULTS[name]
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            began = time.monotonic()
            try:
                seen = fault(Trial(pathlib.Path(folder), steps=steps, every=every))
            except Exception as error:
                failed += 1
                seen = f"DOES NOT HOLD: {type(error).__name__} {str(error)[-600:]}"
            print(f"| {name} | {seen} | {time.monotonic() - began:.0f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

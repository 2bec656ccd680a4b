"""Tasks on this machine, one after another or some beside each other."""

from __future__ import annotations

import functools
import logging
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from cluster.config import SubmitSettings
from cluster.job_array import Task
from cluster.submission import Submission

logger = logging.getLogger(__name__)


class _Chain(NamedTuple):
    """The commands of a task, in turn, and the file of their output."""

    name: str
    log: pathlib.Path
    commands: list[list[str]]


def local(tasks: Sequence[Task], settings: SubmitSettings, *, folder: pathlib.Path, program: str) -> Submission:
    """Returns the submission of tasks to `program`, `settings.beside` at a time.

    One after another, they show what they say, and the first that fails ends all. Beside each other, each has its share
    of the cores and writes to `folder/TASK.log`; where one fails, the others are still run.
    """
    python = settings.python or sys.executable
    chains = [
        _Chain(
            task.name or "all", folder / f"{task.name or 'all'}.log", [c.argv(python, program) for c in task.commands]
        )
        for task in tasks
    ]
    beside = min(settings.beside, len(chains))
    run = functools.partial(_run_beside, chains, beside) if beside > 1 else None
    return Submission({}, [command for chain in chains for command in chain.commands], run=run)


def _run_beside(chains: Sequence[_Chain], beside: int) -> int:
    """Runs the chains, so many at a time; returns the exit code of the first that failed, or 0."""
    shares: queue.SimpleQueue[str] = queue.SimpleQueue()
    for share in _shares(beside):
        shares.put(share)

    def run(chain: _Chain) -> int:
        share = shares.get()
        began = time.monotonic()
        logger.info(f"{chain.name}: begun, {chain.log}")
        try:
            code = _run_chain(chain, ["taskset", "-c", share] if share else [])
        finally:
            shares.put(share)
        seconds = time.monotonic() - began
        logger.info(
            f"{chain.name}: "
            + (f"done in {seconds:.0f} s" if code == 0 else f"ended with {code} after {seconds:.0f} s")
        )
        return code

    with ThreadPoolExecutor(beside) as pool:
        codes = list(pool.map(run, chains))
    return next((code for code in codes if code), 0)


def _run_chain(chain: _Chain, prefix: Sequence[str]) -> int:
    chain.log.parent.mkdir(parents=True, exist_ok=True)
    with open(chain.log, "ab") as log:
        for command in chain.commands:
            code = subprocess.run([*prefix, *command], stdout=log, stderr=log, check=False).returncode
            if code:
                return code
    return 0


def _shares(count: int) -> list[str]:
    """Returns the cores of each of `count` parts of those that this process may use, as taskset has them.

    They are empty where taskset is not installed, or where there are fewer cores: then all use all.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if shutil.which("taskset") is None or len(cores) < count:
        return [""] * count
    size = len(cores) // count
    return [",".join(map(str, cores[part * size : (part + 1) * size])) for part in range(count)]

"""This machine: tasks run one after another, or several at a time."""

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
from cluster.job_array import ArrayTask
from cluster.submission import Submission

logger = logging.getLogger(__name__)


class _LocalTask(NamedTuple):
    """The commands of a task in order, and the log file for their output."""

    name: str
    log: pathlib.Path
    commands: list[list[str]]


def local(tasks: Sequence[ArrayTask], settings: SubmitSettings, *, folder: pathlib.Path, program: str) -> Submission:
    """Return a submission that runs tasks with `program`, `settings.max_parallel` at a time.

    One at a time, tasks print to the console and the first failure ends the submission. In parallel, each task has its
    own CPU cores and writes to `folder/TASK.log`, and a failure does not stop the other tasks.
    """
    python = settings.python or sys.executable
    local_tasks = [
        _LocalTask(task.name, folder / f"{task.name}.log", [command.argv(python, program) for command in task.commands])
        for task in tasks
    ]
    max_parallel = min(settings.max_parallel, len(local_tasks))
    run = functools.partial(_run_parallel, local_tasks, max_parallel) if max_parallel > 1 else None
    return Submission({}, [command for task in local_tasks for command in task.commands], run=run)


def _run_parallel(tasks: Sequence[_LocalTask], max_parallel: int) -> int:
    """Run the tasks, at most `max_parallel` at a time; return the exit code of the first that failed, or 0."""
    free_cores: queue.SimpleQueue[str] = queue.SimpleQueue()
    for cores in _split_cores(max_parallel):
        free_cores.put(cores)

    def run(task: _LocalTask) -> int:
        cores = free_cores.get()
        try:
            return _run_logged(task, ["taskset", "-c", cores] if cores else [])
        finally:
            free_cores.put(cores)

    with ThreadPoolExecutor(max_parallel) as pool:
        codes = list(pool.map(run, tasks))
    return next((code for code in codes if code), 0)


def _run_logged(task: _LocalTask, prefix: Sequence[str]) -> int:
    start = time.monotonic()
    logger.info(f"{task.name}: started, output in {task.log}")
    code = _run_commands(task, prefix)
    outcome = "finished" if code == 0 else f"failed with exit code {code}"
    logger.info(f"{task.name}: {outcome} after {time.monotonic() - start:.0f} s")
    return code


def _run_commands(task: _LocalTask, prefix: Sequence[str]) -> int:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with open(task.log, "ab") as log:
        for command in task.commands:
            code = subprocess.run([*prefix, *command], stdout=log, stderr=log, check=False).returncode
            if code:
                return code
    return 0


def _split_cores(count: int) -> list[str]:
    """Return `count` disjoint lists of the CPU cores of this process, in the format of taskset.

    The lists are empty, so that every task uses all cores, if taskset is not installed or cores are too few.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if shutil.which("taskset") is None or len(cores) < count:
        return [""] * count
    size = len(cores) // count
    return [",".join(map(str, cores[index * size : (index + 1) * size])) for index in range(count)]

"""The record of a run's jobs, `jobs.jsonl` in its workdir, and the last line that a job prints."""

from __future__ import annotations

import logging
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.runtime.exit_codes import has_peers
from foundation.console import printable
from foundation.files.json_lines import append_json_line

logger = logging.getLogger(__name__)

JOBS_FILE = "jobs.jsonl"


@contextmanager
def record_job(workdir: pathlib.Path, name: str) -> Iterator[Callable[[str], None]]:
    """Append the job, its duration and a description to `workdir/jobs.jsonl`; yield a function for the description."""
    start = time.monotonic()
    descriptions: list[str] = []
    logger.info(f"— {name}")
    yield descriptions.append
    if has_peers() and sys.modules["jax"].process_index():
        return
    line = {"job": name, "what": " ".join(descriptions), "seconds": round(time.monotonic() - start, 2)}
    append_json_line(workdir / JOBS_FILE, line)


def print_path(path: pathlib.Path) -> None:
    """Print the path of the result of a job."""
    print(printable(path), flush=True)

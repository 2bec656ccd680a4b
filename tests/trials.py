"""Runs of launch.py that are hurt at chosen moments: started, waited for, hurt, and compared with one that was not."""

import hashlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from pretrain.checkpointing.manager import restore_parameters
from pretrain.monitoring.metric_writer import read_metrics
from tests.data.shard_files import labelled, write_shard
from tests.logged import logged
from tests.pretrain.tiny import config

ROOT = pathlib.Path(__file__).parents[1]
TIMES = ("seconds", "pairs_per_second", "pairs_per_second_per_device", "data_wait_share", "replaced_records")
TIMES += ("run_seconds", "host_memory_gb")


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Trial:
    """A run in `folder/NAME` of so many steps on shards in `folder`, and what is done to it."""

    def __init__(self, folder: pathlib.Path, *, steps: int, every: int, shards: int = 1, **changes):
        self.folder, self.steps, self.every = folder, steps, every
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        samples = labelled(24 * shards)
        for number in range(shards):
            write_shard(folder / "shards" / f"{number:05d}.tar", samples[24 * number : 24 * (number + 1)])
        sections = {
            "data_dir": str(folder / "data"),
            "pretrain": config(
                str(folder / "shards" / "*.tar"), steps=steps, checkpoint_every=every, log_every=every, **changes
            ),
        }
        self.config = folder / "config.py"
        self.config.write_text(
            f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({sections!r})\n"
        )
        self.cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder / "compiled"  # shared by all tests

    def start(
        self,
        workdir: pathlib.Path,
        *arguments: str,
        job: str = "pretrain",
        devices: int = 1,
        environment: dict[str, str] | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> subprocess.Popen:
        """Starts a job on the run, its output in `workdir.log`."""
        flags = "--xla_backend_optimization_level=0"
        flags += f" --xla_force_host_platform_device_count={devices}" if devices > 1 else ""
        settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(self.cache)}
        settings |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "OPENBLAS_NUM_THREADS": "1"}
        # A job that a shell has put into the background has interruptions ignored; huge pages start a job anew.
        settings |= {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "")} | (environment or {})
        command = [*wrapper, sys.executable, "launch.py", job, f"--config={self.config}", f"--workdir={workdir}"]
        with open(self.log(workdir), "ab") as log:
            return subprocess.Popen(
                [*command, *arguments], cwd=ROOT, env={**os.environ, **settings}, stdout=log, stderr=log
            )

    def log(self, workdir: pathlib.Path) -> pathlib.Path:
        """Returns the file of a run's output."""
        return self.folder / f"{workdir.name}.log"

    def said(self, workdir: pathlib.Path) -> str:
        """Returns the output of the jobs on a run so far."""
        return self.log(workdir).read_text(errors="replace")

    def finish(self, workdir: pathlib.Path, *arguments: str, **named) -> None:
        """Runs a job to its end, which must be a good one."""
        code = self.start(workdir, *arguments, **named).wait(900)
        assert code == 0, f"exit code {code}: {self.said(workdir)[-2000:]}"

    def whole(self) -> pathlib.Path:
        """Returns the workdir of the run that nothing happens to, which is made once."""
        workdir = self.folder / "whole"
        if not workdir.exists():
            self.finish(workdir)
        return workdir


def wait_until(holds: Callable[[], object], process: subprocess.Popen, *, seconds: float = 120) -> bool:
    """Waits until something holds; returns False where the process has ended before."""
    deadline = time.monotonic() + seconds
    while not holds():
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise TimeoutError("it does not come to that")
        time.sleep(0.002)
    return True


def lines_of(workdir: pathlib.Path) -> int:
    """Returns how many lines of metrics there are."""
    return len(read_metrics(workdir / "metrics.jsonl"))


def complete_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints that have their final name."""
    names = [path.name for path in (workdir / "checkpoints").glob("step_*")]
    return sorted(int(name[5:]) for name in names if name[5:].isdigit())


def is_writing(workdir: pathlib.Path) -> bool:
    """Whether a checkpoint is being written."""
    return any(not path.name[5:].isdigit() for path in (workdir / "checkpoints").glob("step_*"))


def continued_at(said: str) -> list[int]:
    """Returns the steps at which the run was continued, in turn."""
    return [int(step) for step in re.findall(r"continuing at step (\d+)", said)]


def parameters_of(workdir: pathlib.Path) -> tuple[int, dict]:
    """Returns the newest step and its parameters; what cannot be read raises."""
    with logged() as said:
        found = restore_parameters(workdir / "checkpoints")
    assert not said, said
    return found


def check_same(one: pathlib.Path, other: pathlib.Path) -> None:
    """Raises where two runs differ in a bit of their parameters, or in their metrics but for times."""
    (step, a), (again, b) = parameters_of(one), parameters_of(other)
    assert step == again and all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))
    first, second = (
        [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(path)]
        for path in (one / "metrics.jsonl", other / "metrics.jsonl")
    )
    assert first == second


def digest(folder: pathlib.Path) -> str:
    """Returns a hash of all files of a folder but a model card, which has the folder's name."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "README.md":
            found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def kill(process: subprocess.Popen) -> None:
    """Kills a process, which was running."""
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

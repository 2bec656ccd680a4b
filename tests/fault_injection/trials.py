"""Runs of launch.py for fault injection: start, wait, interrupt, and compare with an undisturbed run."""

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
from tests.xla_flags import FAST_COMPILATION

ROOT = pathlib.Path(__file__).parents[2]
TIMES = ("seconds", "pairs_per_second", "pairs_per_second_per_device", "data_wait_share", "replaced_records")
TIMES += ("run_seconds", "host_memory_gb")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Trial:
    """Runs of `steps` steps on shards in `folder`, with a checkpoint and a log line every `every` steps."""

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
        """Start a job on a run; its output goes to the run's log file."""
        flags = FAST_COMPILATION
        flags += f" --xla_force_host_platform_device_count={devices}" if devices > 1 else ""
        settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(self.cache)}
        settings |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "OPENBLAS_NUM_THREADS": "1"}
        # Huge pages would restart the process.
        settings |= {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "")} | (environment or {})
        command = [*wrapper, sys.executable, "launch.py", job, f"--config={self.config}", f"--workdir={workdir}"]
        with open(self.log(workdir), "ab") as log:
            return subprocess.Popen(
                [*command, *arguments], cwd=ROOT, env={**os.environ, **settings}, stdout=log, stderr=log
            )

    def log(self, workdir: pathlib.Path) -> pathlib.Path:
        """Return the log file of a run."""
        return self.folder / f"{workdir.name}.log"

    def output(self, workdir: pathlib.Path) -> str:
        """Return the output of all jobs on a run so far."""
        return self.log(workdir).read_text(errors="replace")

    def finish(self, workdir: pathlib.Path, *arguments: str, **named) -> None:
        """Run a job, which must succeed."""
        code = self.start(workdir, *arguments, **named).wait(900)
        assert code == 0, f"exit code {code}: {self.output(workdir)[-2000:]}"

    def undisturbed(self) -> pathlib.Path:
        """Return the workdir of the undisturbed run, which is trained once."""
        workdir = self.folder / "undisturbed"
        if not workdir.exists():
            self.finish(workdir)
        return workdir


def wait_until(holds: Callable[[], object], process: subprocess.Popen, *, seconds: float = 120) -> bool:
    """Wait until `holds()` is true; return False if the process ends first."""
    deadline = time.monotonic() + seconds
    while not holds():
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition is not true after {seconds} s")
        time.sleep(0.01)
    return True


def lines_of(workdir: pathlib.Path) -> int:
    """Return the number of lines of metrics."""
    return len(read_metrics(workdir / "metrics.jsonl"))


def complete_steps(workdir: pathlib.Path) -> list[int]:
    """Return the steps of the complete checkpoints, those with their final name."""
    names = [path.name for path in (workdir / "checkpoints").glob("step_*")]
    return sorted(int(name[5:]) for name in names if name[5:].isdigit())


def is_writing(workdir: pathlib.Path) -> bool:
    """Return whether a checkpoint is being written."""
    return any(not path.name[5:].isdigit() for path in (workdir / "checkpoints").glob("step_*"))


def resumed_steps(output: str) -> list[int]:
    """Return the steps at which the run was resumed, in order."""
    return [int(step) for step in re.findall(r"resuming at step (\d+)", output)]


def preempted_steps(output: str) -> list[int]:
    """Return the steps at which the run was preempted, in order."""
    return [int(step) for step in re.findall(r"received SIGTERM at step (\d+) of", output)]


def parameters_of(workdir: pathlib.Path) -> tuple[int, dict]:
    """Return the newest step and its parameters; fail if a checkpoint cannot be read."""
    with logged() as messages:
        found = restore_parameters(workdir / "checkpoints")
    assert not messages, messages
    return found


def check_same(one: pathlib.Path, other: pathlib.Path) -> None:
    """Check that two runs have bit-identical parameters, and the same metrics except for times."""
    (step, a), (again, b) = parameters_of(one), parameters_of(other)
    assert step == again and all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))
    first, second = (
        [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(path)]
        for path in (one / "metrics.jsonl", other / "metrics.jsonl")
    )
    assert first == second


def digest(folder: pathlib.Path) -> str:
    """Return a hash of all files of a folder except the model card, which contains the folder's name."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "README.md":
            found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def kill(process: subprocess.Popen) -> None:
    """Kill a process, which must be running."""
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

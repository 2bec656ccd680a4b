"""What the `submit` section of a config may say, for each target."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

TARGETS = ("local", "slurm", "gke", "tpu-vm", "skypilot")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """What is asked of SLURM; `time` is in minutes, `mem` such as "64GB" is of a node.

    A node runs `tasks_per_node` processes, which share its GPUs: 1 drives all, as many as `gpus_per_node` drive one
    each. `grace` seconds before the time is up, and where SLURM wants the nodes back, the run saves and is queued
    again. Of an array `parallel` tasks run at once. `setup` are lines of shell before the first command, such as
    `module load cuda`; `options` are further `(name, value)` of sbatch.
    """

    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: int = 60
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    grace: int = 120
    parallel: int = 64
    setup: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_pairs("submit.slurm.options", self.options, '(("reservation", "mine"),)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class GkeSettings:
    """A workload of xpk: `tpu_type` such as "v5litepod-256", or `device_type` such as "h100-80gb-8" with `num_nodes`.

    `docker_image` holds the project in `folder` and its packages. A pod has `grace` seconds to save.
    """

    cluster: str | None = None
    project: str | None = None
    zone: str | None = None
    tpu_type: str | None = None
    device_type: str | None = None
    num_slices: int = 1
    num_nodes: int = 1
    docker_image: str | None = None
    folder: str = "/app"
    priority: str = "medium"
    max_restarts: int = 100
    grace: int = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuVmSettings:
    """A queued resource of TPU VMs, all of which run `setup` and then the job when they start, or start again.

    One of `spot` that is taken away does not come back: it is deleted and submitted again.
    `setup` are lines of shell that bring the project into `folder` and install its packages.
    """

    project: str | None = None
    zone: str | None = None
    accelerator_type: str | None = None
    runtime_version: str | None = None
    num_slices: int = 1
    spot: bool = False
    folder: str = "/opt/project"
    setup: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkyPilotSettings:
    """A managed job of SkyPilot; `accelerators` such as "H100:8".

    `mounts` are pairs (folder, bucket), such as ("/runs", "s3://mine/runs"): what a job leaves there outlives its
    machines. `setup` installs the packages, by default those for NVIDIA's GPUs.
    """

    accelerators: str | None = None
    infra: str | None = None
    num_nodes: int = 1
    use_spot: bool = False
    mounts: tuple[tuple[str, str], ...] = ()
    setup: tuple[str, ...] = ('pip install -r requirements.txt "jax[cuda12]"',)

    def __post_init__(self) -> None:
        check_pairs("submit.skypilot.mounts", self.mounts, '(("/runs", "s3://mine/runs"),)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubmitSettings:
    """How jobs are submitted. `name` is lower-case letters, digits and dashes; `python` is the program on the machines
    that run them, by default this one for `local` and `slurm`, and `python3` elsewhere. `beside` is how many tasks
    `local` runs at a time, each on its share of the cores.
    """

    name: str = "context"
    python: str | None = None
    beside: int = 1
    slurm: SlurmSettings = dataclasses.field(default_factory=SlurmSettings)
    gke: GkeSettings = dataclasses.field(default_factory=GkeSettings)
    tpu_vm: TpuVmSettings = dataclasses.field(default_factory=TpuVmSettings)
    skypilot: SkyPilotSettings = dataclasses.field(default_factory=SkyPilotSettings)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", self.name):
            raise ValueError(f"submit.name is {self.name!r}; write up to 32 lower-case letters, digits and dashes")
        if self.beside < 1:
            raise ValueError(f"submit.beside is {self.beside}; it must be at least 1")
        check_lines(self)


def check_lines(settings: object, section: str = "submit") -> None:
    """Raises `ValueError` for a setting with a line break, which would end the line that it is written into."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value, name = getattr(settings, field.name), f"{section}.{field.name}"
        if dataclasses.is_dataclass(value):
            check_lines(value, name)
        elif field.name != "setup" and any(sign in str(each) for each in _parts(value) for sign in "\n\r\0"):
            raise ValueError(f"{name} is {value!r}; no line of a script holds a line break")


def check_pairs(name: str, pairs: object, example: str) -> None:
    """Raises `ValueError` for what are no pairs of a name and a value."""
    whole = isinstance(pairs, tuple | list)
    if not whole or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"{name} is {pairs!r}; write pairs, such as {example}")


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, tuple | list):
        for each in value:
            yield from _parts(each)
    else:
        yield value


SECTIONS = {"slurm": SlurmSettings, "gke": GkeSettings, "tpu_vm": TpuVmSettings, "skypilot": SkyPilotSettings}


def require(section: str, settings: object, *names: str) -> None:
    """Raises `ValueError` naming the first of `names` that is not set."""
    for name in names:
        if getattr(settings, name) is None:
            raise ValueError(f"submit.{section}.{name} is not set; add --config.submit.{section}.{name}=…")

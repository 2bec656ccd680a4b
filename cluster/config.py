"""Settings of the `submit` section of a config, for each target."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import ClassVar

TARGETS = ("local", "slurm", "gke", "tpu-vm", "skypilot")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """Resources of a SLURM job.

    `tasks_per_node` is the number of processes per node, which share the node's GPUs: 1 drives all of them,
    `gpus_per_node` processes drive one each. `mem` is per node, such as "64GB". `time` is the limit in minutes; `grace`
    seconds before it, and when SLURM preempts the job, the run saves a checkpoint and is requeued. `max_parallel` is
    the number of tasks of an array that run at a time. `setup` are shell lines that run before the first command, such
    as `module load cuda`; `options` are additional `(name, value)` pairs for sbatch.
    """

    RENAMED: ClassVar[dict[str, str]] = {"parallel": "max_parallel"}

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
    max_parallel: int = 64
    setup: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_pairs("submit.slurm.options", self.options, '(("reservation", "mine"),)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class GkeSettings:
    """An xpk workload on Google Kubernetes Engine.

    Set either `tpu_type`, such as "v5litepod-256", or `device_type`, such as "h100-80gb-8", with `num_nodes`.
    `docker_image` contains the project in `folder` and the packages that it requires. A preempted pod has `grace`
    seconds to save a checkpoint.
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
    """A queued resource of TPU VMs; every VM runs `setup` and then the job whenever it starts.

    `setup` are shell lines that copy the project to `folder` and install its packages. A preempted `spot` resource does
    not come back: delete it and submit again.
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
    """A managed SkyPilot job; `accelerators` such as "H100:8".

    `mounts` are `(folder, bucket)` pairs, such as ("/runs", "s3://mine/runs"): files written there outlive the
    machines. `setup` installs the packages, by default with JAX for NVIDIA GPUs.
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
    """Settings of all targets.

    `name` consists of lower-case letters, digits and dashes. `python` is the interpreter on the machines that run the
    jobs (default: the current one for `local` and `slurm`, `python3` for the other targets). `max_parallel` is the
    number of tasks that `local` runs at a time, each on an equal part of the CPU cores.
    """

    RENAMED: ClassVar[dict[str, str]] = {"beside": "max_parallel"}

    name: str = "context"
    python: str | None = None
    max_parallel: int = 1
    slurm: SlurmSettings = dataclasses.field(default_factory=SlurmSettings)
    gke: GkeSettings = dataclasses.field(default_factory=GkeSettings)
    tpu_vm: TpuVmSettings = dataclasses.field(default_factory=TpuVmSettings)
    skypilot: SkyPilotSettings = dataclasses.field(default_factory=SkyPilotSettings)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", self.name):
            raise ValueError(
                f"submit.name is {self.name!r}. Use up to 32 lower-case letters, digits and dashes, a letter first."
            )
        if self.max_parallel < 1:
            raise ValueError(f"submit.max_parallel is {self.max_parallel}. It must be at least 1.")
        check_line_breaks(self)


SECTIONS = {"slurm": SlurmSettings, "gke": GkeSettings, "tpu_vm": TpuVmSettings, "skypilot": SkyPilotSettings}


def check_line_breaks(settings: object, section: str = "submit") -> None:
    """Raise `ValueError` if a setting other than `setup` contains a line break, which would end its script line."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value, name = getattr(settings, field.name), f"{section}.{field.name}"
        if dataclasses.is_dataclass(value):
            check_line_breaks(value, name)
        elif field.name != "setup" and any(character in str(leaf) for leaf in _leaves(value) for character in "\n\r\0"):
            raise ValueError(f"{name} is {value!r}. It must not contain line breaks: it becomes part of a script line.")


def check_pairs(name: str, pairs: object, example: str) -> None:
    """Raise `ValueError` unless `pairs` is a sequence of `(name, value)` pairs."""
    is_sequence = isinstance(pairs, tuple | list)
    if not is_sequence or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"{name} is {pairs!r}. It must be a sequence of pairs, such as {example}.")


def require(section: str, settings: object, *names: str) -> None:
    """Raise `ValueError` naming the first of `names` that is not set."""
    for name in names:
        if getattr(settings, name) is None:
            raise ValueError(f"submit.{section}.{name} is not set. Add --config.submit.{section}.{name}=VALUE.")


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value

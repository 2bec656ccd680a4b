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

    nodes: number of nodes.
    tasks_per_node: number of processes per node, which share the node's GPUs: 1 drives all of them, `gpus_per_node`
        processes drive one each.
    gpus_per_node: GPUs per node.
    cpus_per_task: CPU cores per process.
    mem: memory per node, such as "64GB".
    time: limit in minutes.
    partition, account, qos, constraint: as for sbatch.
    grace: seconds before the time limit at which the run saves a checkpoint and is requeued.
    max_parallel: number of tasks of an array that run at a time.
    setup: shell lines that run before the first command, such as `module load cuda`.
    options: additional `(name, value)` pairs for sbatch.
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

    cluster, project, zone: of the GKE cluster.
    tpu_type: TPU slice, such as "v5litepod-256"; or set `device_type`.
    device_type: GPU machine, such as "h100-80gb-8", with `num_nodes`.
    num_slices: number of TPU slices.
    num_nodes: number of GPU machines.
    docker_image: image with the project in `folder` and the packages that it requires.
    folder: folder of the project in the image.
    priority: priority of the workload.
    max_restarts: number of restarts of the JobSet.
    grace: seconds that a preempted pod has to save a checkpoint.
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

    project, zone: of Google Cloud.
    accelerator_type: TPU slice, such as "v5litepod-256".
    runtime_version: image of the TPU VMs, such as "v2-alpha-tpuv5-lite".
    num_slices: number of TPU slices.
    spot: whether the resource is cheaper and may be preempted. It does not come back: delete it and submit again.
    folder: folder of the project on the VMs.
    setup: shell lines that copy the project to `folder` and install its packages.
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
    """A managed SkyPilot job.

    accelerators: kind and number per node, such as "H100:8".
    infra: cloud, region and zone, as SkyPilot names them, such as "aws/us-east-1".
    num_nodes: number of nodes.
    use_spot: whether spot instances are used.
    mounts: `(folder, bucket)` pairs, such as ("/runs", "s3://mine/runs"): files written there outlive the machines.
    setup: shell lines that install the packages, by default with JAX for NVIDIA GPUs.
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

    name: name of the job, of lower-case letters, digits and dashes.
    python: interpreter on the machines that run the jobs (default: the current one for `local` and `slurm`, `python3`
        for the other targets).
    max_parallel: number of tasks that `local` runs at a time, each on an equal part of the CPU cores.
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

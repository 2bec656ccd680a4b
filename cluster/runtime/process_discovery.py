"""Discovery of the processes of a run: how many there are, the index of this one, and the coordinator's address.

One process drives all devices of a host, or one process drives each GPU. The processes are found in the environment
variables of SLURM, Open MPI, a JobSet on Kubernetes, SkyPilot or a TPU pod, or named by arguments. Otherwise this
process runs alone.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import re
from collections.abc import Callable, Mapping

from cluster.runtime.environment import has_tpu

logger = logging.getLogger(__name__)

PORT = 8476  # of the coordinator, if the environment names none
_HEARTBEAT_SECONDS = 30  # a process that is silent for longer counts as lost
_SHUTDOWN_SECONDS = 3600  # the first process may still fit an evaluation when the other processes are done
_ALL_DEVICES: tuple[int, ...] = ()
_ALONE = (
    "Set the variables as the scheduler does, or use --num_processes=1 to run this process alone, or "
    "--coordinator=HOST:PORT --num_processes=N --process_id=I."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes of a run; a field is None where JAX's own `detection_method` finds the value.

    `source` names the scheduler. `local_devices` are the indices of this process's GPUs: empty for all visible ones,
    None for the one that JAX chooses by the process's index on its host.
    """

    source: str
    num_processes: int | None = None
    process_id: int | None = None
    coordinator: str | None = None
    detection_method: str | None = None
    local_devices: tuple[int, ...] | None = _ALL_DEVICES


def find_processes(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    on_tpu: Callable[[], bool] | None = None,
) -> ProcessGroup | None:
    """Return the processes that the arguments or the environment name, or None if this process runs alone.

    Raises `ValueError` for incomplete arguments and for an incomplete environment.
    """
    if num_processes == 1 and coordinator is None and process_id in (None, 0):
        return None
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    if any(value is not None for value in given.values()):
        return _from_arguments(given)
    for look_up in (_slurm, _open_mpi, _job_set, _skypilot):
        group = look_up(environment)
        if group is not None:
            return _checked(group)
    if (on_tpu or _jax_uses_tpus)() and not _is_one_tpu_host(environment):
        return ProcessGroup(source="TPU")
    return None


def join(group: ProcessGroup | None) -> None:
    """Join the other processes, if there are any; call this before JAX initialises its devices.

    Raises `ConnectionError` if they cannot be reached.
    """
    if group is None:
        return
    import jax

    logger.debug(f"joining {group}")
    try:
        jax.distributed.initialize(
            group.coordinator,
            num_processes=group.num_processes,
            process_id=group.process_id,
            local_device_ids=None if group.local_devices is None else list(group.local_devices),
            cluster_detection_method=group.detection_method,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except Exception as error:
        if group.num_processes is None and isinstance(error, ValueError):
            return  # a TPU outside a pod, such as in a notebook
        reason = str(error).strip().partition("\n")[0]
        raise ConnectionError(
            f"{group.source} names {group.num_processes or 'several'} processes, which could not be joined ({reason}). "
            "Use --num_processes=1 to run this one alone, or --coordinator=HOST:PORT --num_processes=N --process_id=I."
        ) from error


def _from_arguments(given: Mapping[str, str | int | None]) -> ProcessGroup:
    coordinator, num_processes, process_id = given.values()
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} is missing. --coordinator, --num_processes and --process_id must be given together."
        )
    assert isinstance(coordinator, str) and isinstance(num_processes, int) and isinstance(process_id, int)
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"--coordinator={coordinator} is not HOST:PORT, such as 10.0.0.1:{PORT}")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id={process_id} is out of range for --num_processes={num_processes}. "
            f"Use 0 to {num_processes - 1}."
        )
    return ProcessGroup(
        source="the command line", num_processes=num_processes, process_id=process_id, coordinator=coordinator
    )


def _checked(group: ProcessGroup) -> ProcessGroup | None:
    """Return a group of several processes, None for a single one; raises `ValueError` for an index out of range."""
    assert group.num_processes is not None and group.process_id is not None
    if group.num_processes == 1:
        return None
    if not group.process_id < group.num_processes:
        raise ValueError(
            f"{group.source} names {group.num_processes} processes, but this one has index {group.process_id}. {_ALONE}"
        )
    return group


def _number(environment: Mapping[str, str], name: str, *, source: str, least: int = 0) -> int:
    """Return the whole number in a variable of a scheduler; raises `ValueError` if it is missing or invalid."""
    text = environment.get(name, "")
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        found = f"{name} is {text!r}, not a number from {least}" if name in environment else f"{name} is not set"
        raise ValueError(f"this process looks like one of {source}, but {found}. {_ALONE}")
    return int(text)


def _slurm(environment: Mapping[str, str]) -> ProcessGroup | None:
    """Return the processes of an `srun` step; the script that `sbatch` starts has a task's index too, but no step."""
    if "SLURM_STEP_NODELIST" not in environment or "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    number = functools.partial(_number, environment, source="a SLURM step")
    num_processes = number("SLURM_STEP_NUM_TASKS", least=1)
    if num_processes == 1:
        return ProcessGroup(source="SLURM", num_processes=1, process_id=0)
    number("SLURM_JOB_ID")  # JAX derives the coordinator's port from it
    return ProcessGroup(
        source="SLURM",
        num_processes=num_processes,
        process_id=number("SLURM_PROCID"),
        detection_method="slurm",
        local_devices=_local_gpus(environment, _slurm_tasks_on_node(environment), number("SLURM_LOCALID")),
    )


def _slurm_tasks_on_node(environment: Mapping[str, str]) -> int:
    """Return the number of tasks of the step on this node, from lists such as `2(x3),1`."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    groups = [re.fullmatch(r"([1-9][0-9]{0,8})(?:\(x([1-9][0-9]{0,5})\))?", group) for group in text.split(",")]
    if not all(groups):
        raise ValueError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}, not a list of numbers such as 2(x3),1. {_ALONE}")
    counts = [int(group[1]) for group in groups if group for _ in range(int(group[2] or 1))]
    node = _number(environment, "SLURM_NODEID", source="a SLURM step") if "SLURM_NODEID" in environment else 0
    return counts[node] if node < len(counts) else counts[0]


def _open_mpi(environment: Mapping[str, str]) -> ProcessGroup | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    number = functools.partial(_number, environment, source="an Open MPI job")
    size = number("OMPI_COMM_WORLD_SIZE", least=1)
    if size == 1:
        return ProcessGroup(source="Open MPI", num_processes=1, process_id=0)
    rank, local_size = number("OMPI_COMM_WORLD_RANK"), size
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environment:
        local_size = number("OMPI_COMM_WORLD_LOCAL_SIZE", least=1)
    local_rank = number("OMPI_COMM_WORLD_LOCAL_RANK") if "OMPI_COMM_WORLD_LOCAL_RANK" in environment else rank
    devices = _local_gpus(environment, local_size, local_rank)
    group = ProcessGroup(source="Open MPI", num_processes=size, process_id=rank, local_devices=devices)
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return dataclasses.replace(group, detection_method="ompi")
    if local_size == size:  # newer versions do not name the first host; with one host it is this one
        return dataclasses.replace(group, coordinator=f"127.0.0.1:{PORT}")
    raise ValueError(
        f"this version of Open MPI does not name the first host of its {size} processes. Add --coordinator=HOST:PORT "
        "with the host of rank 0, --num_processes and --process_id."
    )


def _job_set(environment: Mapping[str, str]) -> ProcessGroup | None:
    """Return the pods of a JobSet or an indexed Job whose manifest names the coordinator, as those of xpk do."""
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS")
    if not coordinator:
        return None  # other programs set NNODES, too
    num_processes = _first_number(environment, "JAX_PROCESS_COUNT", "NNODES")
    if num_processes is None:
        return None
    process_id = _first_number(environment, "JAX_PROCESS_ID", "NODE_RANK", "JOB_COMPLETION_INDEX")
    if process_id is None:
        raise ValueError(
            f"the environment names {num_processes} processes at {coordinator} but not the index of this one. Set "
            "NODE_RANK."
        )
    if "JOB_INDEX" in environment and "PROCESSES_IN_JOB" in environment:
        number = functools.partial(_number, environment, source="a JobSet")
        process_id += number("JOB_INDEX") * number("PROCESSES_IN_JOB")
    if ":" not in coordinator:
        named = "JAX_COORDINATOR_PORT" in environment
        coordinator += f":{_number(environment, 'JAX_COORDINATOR_PORT', source='a JobSet') if named else PORT}"
    return ProcessGroup(source="JobSet", num_processes=num_processes, process_id=process_id, coordinator=coordinator)


def _skypilot(environment: Mapping[str, str]) -> ProcessGroup | None:
    hosts = environment.get("SKYPILOT_NODE_IPS", "").split()
    num_nodes = len(hosts)
    if "SKYPILOT_NUM_NODES" in environment:
        num_nodes = _number(environment, "SKYPILOT_NUM_NODES", source="a SkyPilot task", least=1)
    if num_nodes != len(hosts) and (hosts or num_nodes > 1):
        raise ValueError(
            f"this process looks like one of a SkyPilot task, but SKYPILOT_NUM_NODES is {num_nodes} and "
            f"SKYPILOT_NODE_IPS has {len(hosts)} addresses. {_ALONE}"
        )
    if "SKYPILOT_NODE_IPS" not in environment:
        return None
    if len(hosts) < 2:
        return ProcessGroup(source="SkyPilot", num_processes=1, process_id=0)
    rank = _number(environment, "SKYPILOT_NODE_RANK", source="a SkyPilot task")
    return ProcessGroup(source="SkyPilot", num_processes=len(hosts), process_id=rank, coordinator=f"{hosts[0]}:{PORT}")


def _first_number(environment: Mapping[str, str], *names: str) -> int | None:
    return next((_number(environment, name, source="a JobSet") for name in names if name in environment), None)


def _local_gpus(environment: Mapping[str, str], num_local: int, local_id: int) -> tuple[int, ...] | None:
    """Return the indices, among the visible GPUs of this host, of those that process `local_id` drives."""
    names = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    visible = list(itertools.takewhile(lambda name: name and name != "-1", names))  # CUDA ignores those after it
    if num_local == 1 or len(visible) == 1:
        return _ALL_DEVICES  # the scheduler has bound the process to its own GPUs
    if not visible:
        return None
    if len(visible) % num_local:
        raise ValueError(
            f"{len(visible)} GPUs cannot be divided evenly among {num_local} processes on this host. "
            "Start a number of processes that divides the number of GPUs."
        )
    if local_id >= num_local:
        raise ValueError(f"this process has index {local_id} among the {num_local} of its host. {_ALONE}")
    size = len(visible) // num_local
    return tuple(range(local_id * size, (local_id + 1) * size))


def _is_one_tpu_host(environment: Mapping[str, str]) -> bool:
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    return bool(hosts) and "," not in hosts and "MEGASCALE_COORDINATOR_ADDRESS" not in environment


def _jax_uses_tpus() -> bool:
    import importlib.util
    import os

    if importlib.util.find_spec("libtpu") is None or os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return False
    return has_tpu()

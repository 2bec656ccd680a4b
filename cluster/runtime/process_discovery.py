"""The processes of a run: how many there are, which one this is, and where they meet.

One process drives all devices of a host, or one process each GPU. They are found from what SLURM, Open MPI, a JobSet on
Kubernetes, SkyPilot or a TPU pod says in the environment, or named by arguments; where nothing says so, this process is
alone.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

PORT = 8476  # where a JobSet's processes meet, if its manifest names none
_HEARTBEAT_SECONDS = 30  # a process that is silent for so long is taken to be gone
_SHUTDOWN_SECONDS = 3600  # the first process may still be fitting an evaluation when the others are done
_GOOGLE = "0x1ae0"  # vendor of TPUs on the PCI bus
_ALL_DEVICES: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """`count` processes of which this is number `index`; None where JAX's own detection `method` knows better.

    `found` says what told. `devices` are the local GPUs of this process: empty for all that it sees, None for the one
    that JAX takes by the process's number on its host.
    """

    found: str
    count: int | None = None
    index: int | None = None
    coordinator: str | None = None
    method: str | None = None
    devices: tuple[int, ...] | None = _ALL_DEVICES


def find(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    has_tpu: Callable[[], bool] | None = None,
) -> Processes | None:
    """Returns the processes that arguments or the environment name; None for one that is alone.

    Raises `ValueError` for arguments that do not go together, and for an environment that tells half of it.
    """
    if processes == 1 and coordinator is None and process in (None, 0):
        return None
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if any(value is not None for value in given.values()):
        return _of_arguments(given)
    for look in (_slurm, _open_mpi, _job_set, _skypilot):
        found = look(environment)
        if found is not None:
            return found if found.count is None or found.count > 1 else None
    if (has_tpu or _has_tpu)() and not _is_one_tpu_host(environment):
        return Processes(found="TPU", devices=_ALL_DEVICES)
    return None


def join(found: Processes | None) -> None:
    """Joins the other processes, if there are any; must come before JAX looks for devices.

    Raises `ConnectionError` where they cannot be reached.
    """
    if found is None:
        return
    import jax

    try:
        jax.distributed.initialize(
            found.coordinator,
            num_processes=found.count,
            process_id=found.index,
            local_device_ids=None if found.devices is None else list(found.devices),
            cluster_detection_method=found.method,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        if found.count is None and isinstance(error, ValueError):
            return  # a TPU that belongs to no pod, such as a notebook's
        reason = str(error).strip().partition("\n")[0]
        raise ConnectionError(
            f"{found.found} names {found.count or 'several'} processes, which could not be joined ({reason}); "
            "--processes=1 runs this one alone, --coordinator=HOST:PORT --processes=N --process=I says where they meet"
        ) from error


def _of_arguments(given: Mapping[str, str | int | None]) -> Processes:
    coordinator, count, index = given.values()
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(f"--coordinator, --processes and --process go together; {', '.join(missing)} is missing")
    assert isinstance(coordinator, str) and isinstance(count, int) and isinstance(index, int)
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"--coordinator={coordinator} is not HOST:PORT, such as 10.0.0.1:{PORT}")
    if not 0 <= index < count:
        raise ValueError(f"--process={index} is not among the {count} of --processes; they count from 0")
    return Processes(found="the command line", count=count, index=index, coordinator=coordinator)


def _slurm(environment: Mapping[str, str]) -> Processes | None:
    """A step of `srun`; the script that `sbatch` starts is no step, though it has a task's number as well."""
    if "SLURM_STEP_NODELIST" not in environment or "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    here = _slurm_tasks_here(environment)
    return Processes(
        found="SLURM",
        count=int(environment["SLURM_STEP_NUM_TASKS"]),
        index=int(environment["SLURM_PROCID"]),
        method="slurm",
        devices=_share_of_gpus(environment, here, int(environment["SLURM_LOCALID"])),
    )


def _slurm_tasks_here(environment: Mapping[str, str]) -> int:
    """Returns the tasks of the step on this node, of lists such as `2(x3),1`."""
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        tasks, _, times = part.partition("(x")
        counts += [int(tasks)] * int(times.rstrip(")") or 1)
    node = int(environment.get("SLURM_NODEID", 0))
    return counts[node] if node < len(counts) else counts[0]


def _open_mpi(environment: Mapping[str, str]) -> Processes | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    count, index = int(environment["OMPI_COMM_WORLD_SIZE"]), int(environment["OMPI_COMM_WORLD_RANK"])
    here = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", count))
    devices = _share_of_gpus(environment, here, int(environment.get("OMPI_COMM_WORLD_LOCAL_RANK", index)))
    found = Processes(found="Open MPI", count=count, index=index, devices=devices)
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return dataclasses.replace(found, method="ompi")
    if here == count:  # newer ones do not say where they began; on one host there is no need to
        return dataclasses.replace(found, coordinator=f"127.0.0.1:{PORT}")
    if count == 1:
        return found
    raise ValueError(
        f"this Open MPI does not say where its {count} processes meet; add --coordinator=HOST:PORT, the host of rank "
        "0, --processes and --process"
    )


def _job_set(environment: Mapping[str, str]) -> Processes | None:
    """Pods of a JobSet, or of an indexed Job, whose manifest says where they meet, as those of xpk do."""
    count = _first(environment, "JAX_PROCESS_COUNT", "NNODES")
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS")
    if count is None or coordinator is None:
        return None
    index = _first(environment, "JAX_PROCESS_ID", "NODE_RANK", "JOB_COMPLETION_INDEX")
    if index is None:
        raise ValueError(f"the environment names {count} processes at {coordinator}, and no NODE_RANK for this one")
    index += int(environment.get("JOB_INDEX", 0)) * int(environment.get("PROCESSES_IN_JOB", 0))
    if ":" not in coordinator:
        coordinator += f":{environment.get('JAX_COORDINATOR_PORT', PORT)}"
    return Processes(found="JobSet", count=count, index=index, coordinator=coordinator, devices=_ALL_DEVICES)


def _skypilot(environment: Mapping[str, str]) -> Processes | None:
    if "SKYPILOT_NODE_IPS" not in environment:
        return None
    hosts = environment["SKYPILOT_NODE_IPS"].split()
    index = int(environment["SKYPILOT_NODE_RANK"])
    return Processes(found="SkyPilot", count=len(hosts), index=index, coordinator=f"{hosts[0]}:{PORT}")


def _first(environment: Mapping[str, str], *names: str) -> int | None:
    return next((int(environment[name]) for name in names if name in environment), None)


def _share_of_gpus(environment: Mapping[str, str], processes: int, local: int) -> tuple[int, ...] | None:
    """Returns the GPUs of process `local` among those of a host, by their place among the visible ones."""
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if processes == 1 or len(visible) == 1:
        return _ALL_DEVICES  # the scheduler has given it its own
    if not visible:
        return None
    if len(visible) % processes:
        raise ValueError(f"{processes} processes on this host cannot share {len(visible)} GPUs evenly")
    each = len(visible) // processes
    return tuple(range(local * each, (local + 1) * each))


def _is_one_tpu_host(environment: Mapping[str, str]) -> bool:
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    return bool(hosts) and "," not in hosts and "MEGASCALE_COORDINATOR_ADDRESS" not in environment


def _has_tpu() -> bool:
    import importlib.util
    import os

    if importlib.util.find_spec("libtpu") is None or os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return False
    vendors = pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == _GOOGLE for vendor in vendors)

"""Google Kubernetes Engine: each task is an xpk workload, which xpk turns into a JobSet."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.config import SubmitSettings, require
from cluster.job_array import ArrayTask, shell_line
from cluster.runtime.exit_codes import EXIT_PEER_LOST, EXIT_PREEMPTED
from cluster.submission import Submission


def gke(tasks: Sequence[ArrayTask], settings: SubmitSettings) -> Submission:
    """Return a submission with one xpk workload per task."""
    workload, python = settings.gke, settings.python or "python3"
    require("gke", workload, "cluster", "docker_image")
    if (workload.tpu_type is None) == (workload.device_type is None):
        raise ValueError(
            f"submit.gke.tpu_type is {workload.tpu_type!r} and submit.gke.device_type is {workload.device_type!r}. Set "
            "exactly one of them, such as v5litepod-256 or h100-80gb-8."
        )
    location = [f"--cluster={workload.cluster}"]
    location += [f"--{name}={getattr(workload, name)}" for name in ("project", "zone") if getattr(workload, name)]
    devices = [f"--tpu-type={workload.tpu_type}", f"--num-slices={workload.num_slices}"]
    if workload.device_type:
        devices = [f"--device-type={workload.device_type}", f"--num-nodes={workload.num_nodes}"]
    commands, hints = [], []
    for number, task in enumerate(tasks):
        name = settings.name if len(tasks) == 1 else f"{settings.name}-{number}"
        commands.append(
            [
                *("xpk", "workload", "create", *location, f"--workload={name}", *devices),
                f"--docker-image={workload.docker_image}",
                f"--priority={workload.priority}",
                f"--max-restarts={workload.max_restarts}",
                f"--restart-on-exit-codes={EXIT_PREEMPTED},{EXIT_PEER_LOST}",
                f"--termination-grace-period-seconds={workload.grace}",
                f"--command={_command_line(task, python, workload.folder)}",
            ]
        )
        hints.append(["xpk", "workload", "delete", *location, f"--workload={name}"])
    return Submission({}, commands, [["xpk", "workload", "list", *location], *hints])


def _command_line(task: ArrayTask, python: str, folder: str) -> str:
    """Return one line of shell; the last job replaces the shell, so that it receives SIGTERM itself."""
    *first, last = [shell_line(command.argv(python)) for command in task.commands]
    line = " && ".join([shell_line(["cd", folder]), *first, f"exec {last}"])
    if '"' in line or "\\" in line:
        raise ValueError(f"xpk cannot run {line}: it puts the command in double quotes. Remove quotes and backslashes.")
    return line

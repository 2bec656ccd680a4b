"""Tasks as workloads of Google Kubernetes Engine, by way of xpk, which makes a JobSet of each."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.config import SubmitSettings, require
from cluster.job_array import Task, shell_line
from cluster.runtime.exit_codes import LOST, RUN_AGAIN
from cluster.submission import Submission


def gke(tasks: Sequence[Task], settings: SubmitSettings) -> Submission:
    """Returns the submission of tasks, a workload each."""
    asked, python = settings.gke, settings.python or "python3"
    require("gke", asked, "cluster", "docker_image")
    if (asked.tpu_type is None) == (asked.device_type is None):
        raise ValueError("set one of submit.gke.tpu_type, such as v5litepod-256, and submit.gke.device_type")
    where = [f"--cluster={asked.cluster}"]
    where += [f"--{name}={getattr(asked, name)}" for name in ("project", "zone") if getattr(asked, name)]
    commands, hints = [], []
    for number, task in enumerate(tasks):
        name = settings.name if len(tasks) == 1 else f"{settings.name}-{number}"
        *before, last = [shell_line(command.argv(python)) for command in task.commands]
        parts = [shell_line(["cd", asked.folder]), *before, f"exec {last}"]  # so that SIGTERM goes to the job itself
        line = " && ".join(parts)
        if '"' in line or "\\" in line:
            raise ValueError(
                f"xpk writes the command between double quotes, and {line} has one, a single one or a backslash"
            )
        devices = [f"--tpu-type={asked.tpu_type}", f"--num-slices={asked.num_slices}"]
        if asked.device_type:
            devices = [f"--device-type={asked.device_type}", f"--num-nodes={asked.num_nodes}"]
        commands.append(
            [
                *("xpk", "workload", "create", *where, f"--workload={name}", *devices),
                f"--docker-image={asked.docker_image}",
                f"--priority={asked.priority}",
                f"--max-restarts={asked.max_restarts}",
                f"--restart-on-exit-codes={RUN_AGAIN},{LOST}",
                f"--termination-grace-period-seconds={asked.grace}",
                f"--command={line}",
            ]
        )
        hints.append(["xpk", "workload", "delete", *where, f"--workload={name}"])
    return Submission({}, commands, [["xpk", "workload", "list", *where], *hints])

"""Tasks as managed jobs of SkyPilot, which begins them anew elsewhere where machines are taken away."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

from cluster.config import SubmitSettings, require
from cluster.job_array import Task, shell_line
from cluster.runtime.exit_codes import RUN_AGAIN
from cluster.submission import Submission


def skypilot(
    tasks: Sequence[Task], settings: SubmitSettings, *, folder: pathlib.Path, root: pathlib.Path
) -> Submission:
    """Returns the submission of tasks, a file in `folder` each; the project is what lies in `root`."""
    asked, python = settings.skypilot, settings.python or "python3"
    require("skypilot", asked, "accelerators")
    files, commands, hints = {}, [], [["sky", "jobs", "queue"]]
    for number, task in enumerate(tasks):
        name = settings.name if len(tasks) == 1 else f"{settings.name}-{number}"
        resources: dict[str, Any] = {"accelerators": asked.accelerators, "use_spot": asked.use_spot}
        resources |= {"infra": asked.infra} if asked.infra else {}
        resources["job_recovery"] = {"recover_on_exit_codes": [RUN_AGAIN]}  # told to end before its machines were taken
        page: dict[str, Any] = {
            "name": name,
            "workdir": str(root),
            "num_nodes": asked.num_nodes,
            "resources": resources,
        }
        if asked.mounts:
            page["file_mounts"] = {place: {"source": bucket, "mode": "MOUNT"} for place, bucket in asked.mounts}
        if asked.setup:
            page["setup"] = "\n".join(asked.setup) + "\n"
        page["run"] = "\n".join(["set -e", *_lines(task, python)]) + "\n"
        path = folder / f"{name}.yaml"
        files[path] = yaml.safe_dump(page, sort_keys=False, allow_unicode=True)
        commands.append(["sky", "jobs", "launch", "--yes", "--detach-run", f"--name={name}", str(path)])
        hints.append(["sky", "jobs", "cancel", "--name", name])
    return Submission(files, commands, hints)


def _lines(task: Task, python: str) -> list[str]:
    """Returns lines that run the commands in turn, those of one process on the first node only."""
    lines = []
    for command in task.commands:
        line = shell_line(command.argv(python))
        lines.append(line if command.joined else f'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then {line}; fi')
    return lines

"""SkyPilot: each task is a managed job, which SkyPilot restarts on other machines after a preemption."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

from cluster.config import SkyPilotSettings, SubmitSettings, require
from cluster.job_array import ArrayTask, shell_line
from cluster.runtime.exit_codes import EXIT_PREEMPTED
from cluster.submission import Submission


def skypilot(
    tasks: Sequence[ArrayTask], settings: SubmitSettings, *, folder: pathlib.Path, root: pathlib.Path
) -> Submission:
    """Return a submission with one task file in `folder` per task; SkyPilot uploads the project from `root`."""
    require("skypilot", settings.skypilot, "accelerators")
    files, commands, hints = {}, [], [["sky", "jobs", "queue"]]
    for number, task in enumerate(tasks):
        name = settings.name if len(tasks) == 1 else f"{settings.name}-{number}"
        page = {"name": name, "workdir": str(root), **_page(settings.skypilot)}
        page["run"] = "\n".join(["set -e", *_lines(task, settings.python or "python3")]) + "\n"
        path = folder / f"{name}.yaml"
        files[path] = yaml.safe_dump(page, sort_keys=False, allow_unicode=True)
        commands.append(["sky", "jobs", "launch", "--yes", "--detach-run", f"--name={name}", str(path)])
        hints.append(["sky", "jobs", "cancel", "--name", name])
    return Submission(files, commands, hints)


def _page(settings: SkyPilotSettings) -> dict[str, Any]:
    """Return the part of a task file that all tasks share."""
    resources: dict[str, Any] = {"accelerators": settings.accelerators, "use_spot": settings.use_spot}
    resources |= {"infra": settings.infra} if settings.infra else {}
    resources["job_recovery"] = {"recover_on_exit_codes": [EXIT_PREEMPTED]}  # SIGTERM may precede the preemption
    page: dict[str, Any] = {"num_nodes": settings.num_nodes, "resources": resources}
    if settings.mounts:
        page["file_mounts"] = {path: {"source": bucket, "mode": "MOUNT"} for path, bucket in settings.mounts}
    if settings.setup:
        page["setup"] = "\n".join(settings.setup) + "\n"
    return page


def _lines(task: ArrayTask, python: str) -> list[str]:
    """Return shell lines that run the commands in order, those of one process on the first node only."""
    lines = []
    for command in task.commands:
        line = shell_line(command.argv(python))
        lines.append(line if command.collective else f'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then {line}; fi')
    return lines

"""Tasks on TPU VMs, by way of queued resources of gcloud: a start-up script does the work on every host."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from cluster.config import SubmitSettings, require
from cluster.job_array import Task, shell_line
from cluster.runtime.exit_codes import LOST, RUN_AGAIN
from cluster.submission import Submission

_OTHERS_END = 60  # seconds after which those that have lost a process have ended too


def tpu_vm(tasks: Sequence[Task], settings: SubmitSettings, *, folder: pathlib.Path) -> Submission:
    """Returns the submission of tasks, a queued resource each; the scripts go to `folder`."""
    asked, python = settings.tpu_vm, settings.python or "python3"
    require("tpu_vm", asked, "zone", "accelerator_type", "runtime_version")
    where = [f"--zone={asked.zone}", *([f"--project={asked.project}"] if asked.project else [])]
    files, commands, hints = {}, [], []
    for number, task in enumerate(tasks):
        name = settings.name if len(tasks) == 1 else f"{settings.name}-{number}"
        path = folder / f"{name}.sh"
        files[path] = _script(task, python, asked.folder, asked.setup)
        tpu = ["gcloud", "compute", "tpus"]
        several = asked.num_slices > 1
        names = [f"--node-count={asked.num_slices}", f"--node-prefix={name}"] if several else [f"--node-id={name}"]
        commands.append(
            [
                *(*tpu, "queued-resources", "create", name, *where, *names),
                f"--accelerator-type={asked.accelerator_type}",
                f"--runtime-version={asked.runtime_version}",
                *(["--spot"] if asked.spot else []),
                f"--metadata-from-file=startup-script={path}",
            ]
        )
        first = f"{name}-0" if several else name
        show = "--command=sudo journalctl -u google-startup-scripts -f"
        hints += [
            [*tpu, "queued-resources", "describe", name, *where],
            [*tpu, "tpu-vm", "ssh", first, *where, "--worker=0", show],
            [*tpu, "queued-resources", "delete", name, *where, "--force"],
        ]
    return Submission(files, commands, hints)


def _script(task: Task, python: str, folder: str, setup: Sequence[str]) -> str:
    """Returns the script; a job that was told to end, or lost others, is run again, as all do where a host restarts.

    It goes on at its last checkpoint.
    """
    lines = ["#!/bin/bash", f"# {task.name}", "set -eu", *setup, shell_line(["cd", folder]), "set +e"]
    for command in task.commands:
        lines += [
            "while true; do",
            shell_line(command.argv(python)),
            "code=$?",
            f'[ "$code" -eq {RUN_AGAIN} ] || [ "$code" -eq {LOST} ] || break',
            f"sleep {_OTHERS_END}",
            "done",
            'if [ "$code" -ne 0 ]; then exit "$code"; fi',
        ]
    return "\n".join(lines) + "\n"

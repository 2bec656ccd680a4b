"""TPU VMs: each task is a queued resource of gcloud, whose start-up script runs the job on every host."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from cluster.config import SubmitSettings, require
from cluster.job_array import ArrayTask, shell_line
from cluster.runtime.exit_codes import EXIT_PEER_LOST, EXIT_PREEMPTED
from cluster.submission import Submission

_RESTART_SECONDS = 60  # by then every process that has lost a peer has ended too
_GCLOUD = ("gcloud", "compute", "tpus")


def tpu_vm(tasks: Sequence[ArrayTask], settings: SubmitSettings, *, folder: pathlib.Path) -> Submission:
    """Return a submission with one queued resource per task; the start-up scripts are in `folder`."""
    vm = settings.tpu_vm
    require("tpu_vm", vm, "zone", "accelerator_type", "runtime_version")
    location = [f"--zone={vm.zone}", *([f"--project={vm.project}"] if vm.project else [])]
    files, commands, hints = {}, [], []
    for number, task in enumerate(tasks):
        name = settings.name if len(tasks) == 1 else f"{settings.name}-{number}"
        path = folder / f"{name}.sh"
        files[path] = _script(task, settings.python or "python3", folder=vm.folder, setup=vm.setup)
        nodes, first_node = [f"--node-id={name}"], name
        if vm.num_slices > 1:
            nodes, first_node = [f"--node-count={vm.num_slices}", f"--node-prefix={name}"], f"{name}-0"
        commands.append(
            [
                *(*_GCLOUD, "queued-resources", "create", name, *location, *nodes),
                f"--accelerator-type={vm.accelerator_type}",
                f"--runtime-version={vm.runtime_version}",
                *(["--spot"] if vm.spot else []),
                f"--metadata-from-file=startup-script={path}",
            ]
        )
        show_log = "--command=sudo journalctl -u google-startup-scripts -f"
        hints += [
            [*_GCLOUD, "queued-resources", "describe", name, *location],
            [*_GCLOUD, "tpu-vm", "ssh", first_node, *location, "--worker=0", show_log],
            [*_GCLOUD, "queued-resources", "delete", name, *location, "--force"],
        ]
    return Submission(files, commands, hints)


def _script(task: ArrayTask, python: str, *, folder: str, setup: Sequence[str]) -> str:
    """Return the start-up script; a job that was preempted or has lost a peer runs again and resumes."""
    lines = ["#!/bin/bash", f"# {task.name}", "set -eu", *setup, shell_line(["cd", folder]), "set +e"]
    for command in task.commands:
        lines += [
            "while true; do",
            shell_line(command.argv(python)),
            "code=$?",
            f'[ "$code" -eq {EXIT_PREEMPTED} ] || [ "$code" -eq {EXIT_PEER_LOST} ] || break',
            f"sleep {_RESTART_SECONDS}",
            "done",
            'if [ "$code" -ne 0 ]; then exit "$code"; fi',
        ]
    return "\n".join(lines) + "\n"

"""From jobs of launch.py to what a target runs."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from cluster.config import TARGETS, SubmitSettings
from cluster.job_array import Task
from cluster.submission import Submission

ROOT = pathlib.Path(__file__).parents[1]


def prepare(target: str, tasks: Sequence[Task], settings: SubmitSettings, *, workdir: pathlib.Path) -> Submission:
    """Returns what submits `tasks` to a target.

    Its files are to be written to `workdir/submit`, or, where that is a folder of other machines, `runs/submit` here.
    Raises `ValueError` for an unknown target, for settings that it lacks, and for tasks that it cannot do.
    """
    folder = workdir / "submit" if target in ("local", "slurm") else pathlib.Path("runs", "submit")
    program = "launch.py" if pathlib.Path.cwd() == ROOT else str(ROOT / "launch.py")
    if target == "local":
        from cluster.targets.local import local

        return local(tasks, settings, folder=folder, program=program)
    if target == "slurm":
        from cluster.targets.slurm import slurm

        return slurm(tasks, settings, folder=folder, program=program)
    if target == "skypilot":
        from cluster.targets.skypilot import skypilot

        return skypilot(tasks, settings, folder=folder, root=ROOT)
    if target not in TARGETS:
        raise ValueError(f"unknown --target {target!r}; known: {', '.join(TARGETS)}")
    if any(len({command.joined for command in task.commands}) > 1 for task in tasks):
        raise ValueError(f"every host of {target} would run what is for one process; submit --jobs=pretrain by itself")
    if target == "gke":
        from cluster.targets.gke import gke

        return gke(tasks, settings)
    from cluster.targets.tpu_vm import tpu_vm

    return tpu_vm(tasks, settings, folder=folder)

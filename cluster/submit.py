"""Submission of launch.py jobs to a target."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from cluster.config import TARGETS, SubmitSettings
from cluster.job_array import ArrayTask
from cluster.submission import Submission
from foundation.suggestions import unknown_name

ROOT = pathlib.Path(__file__).parents[1]


def prepare(target: str, tasks: Sequence[ArrayTask], settings: SubmitSettings, *, workdir: pathlib.Path) -> Submission:
    """Return the submission of `tasks` to a target.

    Its files belong in `workdir/submit`, or in `runs/submit` of the current directory if the target's machines are
    elsewhere. Raises `ValueError` for an unknown target, missing settings, and tasks that the target cannot run.
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
        raise ValueError(unknown_name("--target", target, TARGETS))
    if any(len({command.collective for command in task.commands}) > 1 for task in tasks):
        raise ValueError(
            f"{target} runs the same command on every host, and only pretrain may run on all of them. Submit "
            "--jobs=pretrain by itself, and the other jobs as a submission for one machine."
        )
    if target == "gke":
        from cluster.targets.gke import gke

        return gke(tasks, settings)
    from cluster.targets.tpu_vm import tpu_vm

    return tpu_vm(tasks, settings, folder=folder)

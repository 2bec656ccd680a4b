"""SLURM: tasks are a job or a job array, in an sbatch script written with submitit."""

from __future__ import annotations

import logging
import os
import pathlib
import sys
from collections.abc import Sequence

from submitit.slurm.slurm import SlurmExecutor

from cluster.config import SlurmSettings, SubmitSettings
from cluster.job_array import ArrayTask, JobCommand, shell_line
from cluster.runtime.exit_codes import EXIT_PREEMPTED
from cluster.submission import Submission

logger = logging.getLogger(__name__)


class BatchScript(SlurmExecutor):
    """submitit's script, with plain commands instead of a pickled function."""

    @classmethod
    def affinity(cls) -> int:
        """Return a positive value, so that the script can be written where SLURM is not installed."""
        return 2

    def text(self, lines: Sequence[str], *, num_tasks: int) -> str:
        """Return a script that runs `lines`, as a job array if there are several tasks."""
        if num_tasks > 1:
            self.parameters["map_count"] = num_tasks
        return self._make_submission_file_text("\n".join(lines), uid="")


def slurm(tasks: Sequence[ArrayTask], settings: SubmitSettings, *, folder: pathlib.Path, program: str) -> Submission:
    """Return a submission that runs tasks with `program`; the script and its logs are in `folder`.

    The commands run in the current directory, which all nodes must see.
    """
    if settings.slurm.gpus_per_node is None:
        logger.info("the job requests no GPUs: submit.slurm.gpus_per_node is not set")
    if settings.slurm.cpus_per_task is None:
        logger.info(
            "the job requests no CPU cores, SLURM's default is one per process: submit.slurm.cpus_per_task is not set"
        )
    script = BatchScript(folder.absolute())
    script.update_parameters(**_parameters(settings.name, settings.slurm, folder))
    lines = ["export PYTHONUNBUFFERED=1", shell_line(["cd", os.getcwd()])]
    argv = [settings.python or sys.executable, program]
    if len(tasks) == 1:
        lines += ['job="$SLURM_JOB_ID"', *_lines(tasks[0].commands, argv, settings.slurm)]
    else:
        # one task of an array has the job id of the whole array, and requeueing that would requeue every task
        lines += ['job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"', 'case "$SLURM_ARRAY_TASK_ID" in']
        for number, task in enumerate(tasks):
            lines += [f"{number}) # {task.name}", *_lines(task.commands, argv, settings.slurm), ";;"]
        lines.append("esac")
    path = folder / f"{settings.name}.sbatch"
    return Submission(
        {path: script.text(lines, num_tasks=len(tasks)) + "\n"},
        [["sbatch", str(path)]],
        [["squeue", f"--name={settings.name}"], ["scancel", f"--name={settings.name}"]],
    )


def _parameters(name: str, settings: SlurmSettings, folder: pathlib.Path) -> dict:
    """Return submitit's parameters."""
    output = str(folder.absolute() / "%x-%j.log")
    options = {"signal": f"TERM@{settings.grace}", "requeue": True, "output": output, "error": output}
    options |= {"open-mode": "append", **dict(settings.options)}
    parameters = {
        "job_name": name,
        "time": settings.time,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.tasks_per_node,
        "gpus_per_node": settings.gpus_per_node,
        "cpus_per_task": settings.cpus_per_task,
        "mem": settings.mem,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "array_parallelism": settings.max_parallel,
        "setup": list(settings.setup) or None,
        "use_srun": False,
        "wckey": name,
        "additional_parameters": options,
    }
    return {key: value for key, value in parameters.items() if value is not None}


def _lines(commands: Sequence[JobCommand], argv: Sequence[str], settings: SlurmSettings) -> list[str]:
    """Return shell lines that run the commands in order; a preempted command requeues the job.

    `--kill-on-bad-exit=0`: each process may take its own time to save, or to notice that another is lost. If srun
    killed the remaining ones, the step would end with exit code 137. Since version 22.05 srun does not take
    `--cpus-per-task` from the script.
    """
    lines = []
    for command in commands:
        step = ["srun", "--kill-on-bad-exit=0"]
        step += [] if settings.cpus_per_task is None else [f"--cpus-per-task={settings.cpus_per_task}"]
        step += [] if command.collective else ["--nodes=1", "--ntasks=1"]
        lines += [
            shell_line([*step, *command.argv(*argv)]),
            "code=$?",
            f'if [ "$code" -eq {EXIT_PREEMPTED} ]; then scontrol requeue "$job"; fi',
            'if [ "$code" -ne 0 ]; then exit "$code"; fi',
        ]
    return lines

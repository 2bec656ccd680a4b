"""Tasks as a job, or an array of jobs, of SLURM: a script for sbatch, by way of submitit."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence

from submitit.slurm.slurm import SlurmExecutor

from cluster.config import SlurmSettings, SubmitSettings
from cluster.job_array import Command, Task, shell_line
from cluster.runtime.exit_codes import RUN_AGAIN
from cluster.submission import Submission


class Script(SlurmExecutor):
    """submitit's script, with plain commands in the place of its pickled functions."""

    @classmethod
    def affinity(cls) -> int:
        """The script can be written where there is no SLURM."""
        return 2

    def text(self, lines: Sequence[str], *, tasks: int) -> str:
        """Returns the script that runs `lines`, as an array of so many tasks."""
        if tasks > 1:
            self.parameters["map_count"] = tasks
        return self._make_submission_file_text("\n".join(lines), uid="")


def slurm(tasks: Sequence[Task], settings: SubmitSettings, *, folder: pathlib.Path, program: str) -> Submission:
    """Returns the submission of tasks to `program`; script and output go to `folder`.

    The commands run in the directory that this is called in, which the nodes must see.
    """
    python = settings.python or sys.executable
    script = Script(folder.absolute())
    script.update_parameters(**_parameters(settings.name, settings.slurm, folder))
    lines = ["export PYTHONUNBUFFERED=1", shell_line(["cd", os.getcwd()])]
    if len(tasks) == 1:
        lines += ['itself="$SLURM_JOB_ID"', *_lines(tasks[0].commands, [python, program], settings.slurm)]
    else:
        # the number of one of the tasks is that of the array, and would queue all of them again
        lines += ['itself="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"', 'case "$SLURM_ARRAY_TASK_ID" in']
        for number, task in enumerate(tasks):
            lines += [f"{number}) # {task.name}", *_lines(task.commands, [python, program], settings.slurm), ";;"]
        lines.append("esac")
    path = folder / f"{settings.name}.sbatch"
    return Submission(
        {path: script.text(lines, tasks=len(tasks)) + "\n"},
        [["sbatch", str(path)]],
        [["squeue", f"--name={settings.name}"], ["scancel", f"--name={settings.name}"]],
    )


def _parameters(name: str, asked: SlurmSettings, folder: pathlib.Path) -> dict:
    output = str(folder.absolute() / "%x-%j.log")
    extra = {"signal": f"TERM@{asked.grace}", "requeue": True, "output": output, "error": output, "open-mode": "append"}
    given = {
        "job_name": name,
        "time": asked.time,
        "nodes": asked.nodes,
        "ntasks_per_node": asked.tasks_per_node,
        "gpus_per_node": asked.gpus_per_node,
        "cpus_per_task": asked.cpus_per_task,
        "mem": asked.mem,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "array_parallelism": asked.parallel,
        "setup": list(asked.setup) or None,
        "use_srun": False,
        "wckey": name,
        "additional_parameters": extra | dict(asked.options),
    }
    return {key: value for key, value in given.items() if value is not None}


def _lines(commands: Sequence[Command], program: Sequence[str], asked: SlurmSettings) -> list[str]:
    """Returns lines that run the commands in turn; one that was told to end queues the job again.

    Each process may take its own time to end, or to notice that another is lost, so srun is not to kill those that are
    left: of one that was killed while it saved, the step would have exit code 137. Since 22.05 srun does not take
    `--cpus-per-task` from the script.
    """
    lines = []
    for command in commands:
        step = ["srun", "--kill-on-bad-exit=0"]
        step += [] if asked.cpus_per_task is None else [f"--cpus-per-task={asked.cpus_per_task}"]
        step += [] if command.joined else ["--nodes=1", "--ntasks=1"]
        lines += [
            shell_line([*step, *command.argv(*program)]),
            "code=$?",
            f'if [ "$code" -eq {RUN_AGAIN} ]; then scontrol requeue "$itself"; fi',
            'if [ "$code" -ne 0 ]; then exit "$code"; fi',
        ]
    return lines

"""Tasks on this machine, one after another."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster.plan import Task
from cluster.settings import SubmitSettings
from cluster.submission import Submission


def local(tasks: Sequence[Task], settings: SubmitSettings, *, program: str) -> Submission:
    """Returns the submission of tasks to `program`: nothing is written."""
    python = settings.python or sys.executable
    return Submission({}, [command.argv(python, program) for task in tasks for command in task.commands])

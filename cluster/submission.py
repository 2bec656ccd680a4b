"""Submissions: files and commands that are written, shown and then run."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Sequence

from cluster.job_array import shell_line

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Submission:
    """Text of `files` by path, `commands` to run in order, and `hints`: commands to monitor or cancel the jobs.

    `run`, if given, runs the commands in another way; it returns an exit code.
    """

    files: dict[pathlib.Path, str]
    commands: list[list[str]]
    hints: list[list[str]] = dataclasses.field(default_factory=list)
    run: Callable[[], int] | None = None


def submit(submission: Submission, *, dry_run: bool) -> int:
    """Show files and commands; unless it is a `dry_run`, write the files and run the commands.

    Returns the exit code of the first command that fails, or 0. Raises `ValueError` if a program is not installed.
    """
    for path, text in submission.files.items():
        if not dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        logger.info(f"— {path}")
        logger.info(text.rstrip())
    logger.info("— commands (dry run)" if dry_run else "— running")
    for command in submission.commands:
        logger.info(shell_line(command))
    if submission.hints:
        logger.info("— to monitor or cancel")
        for command in submission.hints:
            logger.info(shell_line(command))
    if dry_run:
        return 0
    for command in submission.commands:
        if shutil.which(command[0]) is None:
            raise ValueError(f"{command[0]} is not installed. Install it, or use --dry_run to see its commands.")
    return submission.run() if submission.run else _run(submission.commands)


def _run(commands: Sequence[list[str]]) -> int:
    for command in commands:
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0

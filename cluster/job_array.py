"""Job arrays: independent tasks, each a sequence of launch.py commands."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from foundation.suggestions import unknown_name

JOBS = ("pretrain", "align", "export", "evaluate", "report", "embed")
_LONGEST_NAME = 150  # characters of a folder name; file systems allow up to 255
_COLLECTIVE_JOBS = ("pretrain", "align")  # run by all processes of a task together; the other jobs run in one process
_SHARDED_JOBS = ("evaluate", "embed")  # take `--shard=i/n`
_WITHOUT_CONFIG = ("embed",)  # take neither a config nor a workdir


@dataclasses.dataclass(frozen=True)
class JobCommand:
    """A job of launch.py with its arguments; `collective` if all processes of a task run it together."""

    arguments: tuple[str, ...]
    collective: bool

    def argv(self, python: str, program: str = "launch.py") -> list[str]:
        """Return the interpreter, the program and its arguments."""
        return [python, program, *self.arguments]


@dataclasses.dataclass(frozen=True)
class ArrayTask:
    """Commands that run one after another; the first failure ends the task. `name` is unique within the array."""

    name: str
    commands: tuple[JobCommand, ...]


def plan_tasks(
    jobs: Sequence[str],
    *,
    config: str | None,
    workdir: pathlib.Path,
    overrides: Sequence[str] = (),
    points: Sequence[Mapping[str, Any]] = (),
    num_shards: int = 1,
    arguments: Mapping[str, Sequence[str]] | None = None,
) -> list[ArrayTask]:
    """Return one task per sweep point and shard.

    The values of a point override the config, and its workdir is a folder in `workdir` named after them. `arguments`
    are additional arguments by job. Raises `ValueError` for an unknown job and for jobs that cannot be split.
    """
    _check_jobs(jobs, num_shards=num_shards, arguments=arguments or {})
    tasks = []
    for point, name in zip(points or [{}], point_names(points) or [""], strict=True):
        changes = [*overrides, *(f"--config.{key}={value}" for key, value in point.items())]
        for shard in range(num_shards):
            label = "-".join(filter(None, (name, f"shard-{shard}" if num_shards > 1 else "")))
            commands = []
            for job in jobs:
                words = [job]
                if job not in _WITHOUT_CONFIG:
                    words += [] if config is None else [f"--config={config}"]
                    words += [f"--workdir={workdir / name if name else workdir}"]
                words += [*changes, *(arguments or {}).get(job, ())]
                words += [f"--shard={shard}/{num_shards}"] if num_shards > 1 else []
                commands.append(JobCommand(tuple(map(_one_line, words)), collective=job in _COLLECTIVE_JOBS))
            tasks.append(ArrayTask(label or "-".join(jobs), tuple(commands)))
    return tasks


def _check_jobs(jobs: Sequence[str], *, num_shards: int, arguments: Mapping[str, Sequence[str]]) -> None:
    for job in jobs or [""]:
        if job not in JOBS:
            raise ValueError(unknown_name("job in --jobs", job, JOBS))
    if num_shards < 1:
        raise ValueError(f"--num_shards={num_shards} must be at least 1.")
    if num_shards > 1 and not (len(jobs) == 1 and jobs[0] in _SHARDED_JOBS):
        raise ValueError(
            f"--num_shards={num_shards} splits evaluate or embed, and --jobs is {','.join(jobs)}. Submit the other "
            f"jobs by themselves, and --jobs={' or --jobs='.join(_SHARDED_JOBS)} with --num_shards."
        )
    if any(word.startswith("--shard=") for words in arguments.values() for word in words):
        raise ValueError("--shard cannot be submitted: each task gets its own. Use --num_shards=N.")


def _one_line(word: str) -> str:
    if "\n" in word or "\0" in word:
        raise ValueError(f"{word!r} contains a line break, which a command line cannot hold.")
    return word


def point_names(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a unique folder name per sweep point, made of its values: `learning_rate=0.001,seed=1`.

    A name that is too long for a folder, or that two points share, ends in a hash of the values. Raises `ValueError` if
    two points are equal.
    """
    keys = list(dict.fromkeys(key for point in points for key in point))
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}
    names = [
        ",".join(_safe(f"{short[key]}={value}") for key, value in point.items()) or f"point-{number}"
        for number, point in enumerate(points)
    ]
    unique = [len(name) <= _LONGEST_NAME and names.count(name) == 1 for name in names]
    names = [
        name if is_unique else f"{name[:_LONGEST_NAME]},{_hash(point)}"
        for name, is_unique, point in zip(names, unique, points, strict=True)
    ]
    for name, point in zip(names, points, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"get_sweep() returns the point {point} twice. Remove one of them.")
    return names


def _safe(text: str) -> str:
    """Return `text` with every character replaced by _ that file systems or shells treat specially."""
    return "".join(
        character if (character.isascii() and character.isalnum()) or character in "=._-" else "_" for character in text
    )


def _hash(point: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(point.items())).encode()).hexdigest()[:8]


def shell_line(words: Sequence[str]) -> str:
    """Return `words` as one line of shell, each quoted."""
    return shlex.join(words)

"""What is submitted: tasks that do not wait for each other, each some commands in turn."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

JOBS = ("pretrain", "export", "evaluate", "report")
_LONGEST = 150  # letters of a folder's name; file systems have up to 255
_JOINED = ("pretrain",)  # jobs that all processes of a task do together; one process does the others


@dataclasses.dataclass(frozen=True)
class Command:
    """A job of launch.py with its arguments, and whether all processes of a task run it together."""

    arguments: tuple[str, ...]
    joined: bool

    def argv(self, python: str, program: str = "launch.py") -> list[str]:
        """Returns the interpreter, the program and its arguments."""
        return [python, program, *self.arguments]


@dataclasses.dataclass(frozen=True)
class Task:
    """Commands in turn; the first that fails ends the task. `name` tells it from the others."""

    name: str
    commands: tuple[Command, ...]


def plan_tasks(
    jobs: Sequence[str],
    *,
    config: str | None,
    workdir: pathlib.Path,
    overrides: Sequence[str] = (),
    points: Sequence[Mapping[str, Any]] = (),
    parts: int = 1,
    arguments: Mapping[str, Sequence[str]] | None = None,
) -> list[Task]:
    """Returns a task for each point of a sweep, and each of `parts` of an evaluation.

    A point's values are overrides of the config, and its workdir a folder of `workdir` that is named after them.
    `arguments` are further ones by job. Raises `ValueError` for jobs that are unknown or cannot be split.
    """
    unknown = [job for job in jobs if job not in JOBS]
    if unknown or not jobs:
        raise ValueError(f"unknown job {', '.join(unknown) or '(none)'} in --jobs; known: {', '.join(JOBS)}")
    if parts < 1:
        raise ValueError(f"--parts={parts}; it must be at least 1")
    if parts > 1 and tuple(jobs) != ("evaluate",):
        raise ValueError("--parts splits an evaluation; submit the other jobs first, then --jobs=evaluate by itself")
    if any(word.startswith("--shard=") for words in (arguments or {}).values() for word in words):
        raise ValueError("--shard is set for each part of an evaluation; write --parts=N")
    tasks = []
    names = names_of(points)
    for point, name in zip(points or [{}], names or [""], strict=True):
        folder = workdir / name if name else workdir
        changes = [*overrides, *(override(key, value) for key, value in point.items())]
        for part in range(parts):
            label = "-".join(filter(None, (name, f"part-{part}" if parts > 1 else "")))
            commands = []
            for job in jobs:
                own = list((arguments or {}).get(job, ()))
                own += [f"--shard={part}/{parts}"] if parts > 1 else []
                given = [] if config is None else [f"--config={config}"]
                words = (job, *given, f"--workdir={folder}", *changes, *own)
                for word in words:
                    if "\n" in word or "\0" in word:
                        raise ValueError(f"{word!r} has a line break, which no command line can hold")
                commands.append(Command(words, job in _JOINED))
            tasks.append(Task(label or "-".join(jobs), tuple(commands)))
    return tasks


def override(key: str, value: Any) -> str:
    """Returns the argument that sets a key of a config."""
    return f"--config.{key}={value}"


def names_of(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a folder's name for each point, after what differs between them: `learning_rate=0.001,seed=1`.

    A name that would be too long for a folder, or that of two points, ends in a hash of the values. Raises `ValueError`
    where two points are the same.
    """
    keys = list(dict.fromkeys(key for point in points for key in point))
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}
    names = [
        ",".join(_safe(f"{short[key]}={value}") for key, value in point.items()) or f"point-{number}"
        for number, point in enumerate(points)
    ]
    clear = [len(name) <= _LONGEST and names.count(name) == 1 for name in names]
    names = [
        name if is_clear else f"{name[:_LONGEST]},{_hash(point)}"
        for name, is_clear, point in zip(names, clear, points, strict=True)
    ]
    for name, point in zip(names, points, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"get_sweep() has the point {point} twice")
    return names


def _safe(text: str) -> str:
    """Returns text of letters, digits and some signs that neither file systems nor shells mind."""
    return "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "=._-" else "_" for letter in text)


def _hash(point: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(point.items())).encode()).hexdigest()[:8]


def shell_line(words: Sequence[str]) -> str:
    """Returns one line of shell in which each word stays a word, whatever is in it."""
    return shlex.join(words)

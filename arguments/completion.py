"""Completion in the shell, bash or zsh, by argcomplete: jobs, options, choices, files, and the settings of a config.

The shell runs launch.py at each press of the tab key, so nothing of JAX is imported here.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import configs
from adapt.choices import METHOD_SUMMARIES, TASKS
from arguments.config_file import EVALUATE_CONFIG, QUICKSTART_CONFIG, find_config
from arguments.help_texts import JOBS, WITHOUT_CONFIG
from arguments.parser import build_parser

_DEFAULT_CONFIGS = {"quickstart": QUICKSTART_CONFIG, "evaluate": EVALUATE_CONFIG}


def _datasets() -> Iterable[str]:
    from data.fewshot.catalog import CATALOGUE

    return CATALOGUE


_LISTS: dict[str, Callable[[], Iterable[str]]] = {
    "--methods": lambda: ("all", "training_free", "transductive", *METHOD_SUMMARIES),
    "--tasks": lambda: TASKS,
    "--jobs": lambda: JOBS,
    "--datasets": _datasets,
}


def complete() -> None:
    """Print the completions of the command line that the shell is editing, and exit."""
    import argcomplete

    parser = build_parser()
    job_parsers = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for action in (action for each in job_parsers.values() for action in each._actions):
        _add_completer(action)
    job = next((word for word in _words() if word in JOBS), None)
    if job is not None and job not in WITHOUT_CONFIG:
        _add_settings(job_parsers[job], job)

    class Finder(argcomplete.CompletionFinder):
        """A finder that describes every completion: zsh would show "None" for the remaining ones."""

        def quote_completions(self, *args: Any) -> list[str]:
            quoted = super().quote_completions(*args)
            for each in quoted:
                self.get_display_completions().setdefault(each, JOBS.get(each.strip(), ""))
            return quoted

    Finder()(parser)


def _add_completer(action: argparse.Action) -> None:
    """Let an option complete the names that it takes; argcomplete itself completes choices and files."""
    option = next(iter(action.option_strings), "")
    if option == "--config":
        from argcomplete.completers import FilesCompleter

        files, own = FilesCompleter(("py",)), [f"{configs.FOLDER.name}/{name}" for name in configs.known_configs()]
        action.completer = lambda prefix, **_: [*own, *files(prefix)]
    elif option == "--method":
        action.completer = lambda **_: ["auto", *METHOD_SUMMARIES]
    elif option in _LISTS:
        action.completer = lambda prefix, **_: _extend_list(prefix, _LISTS[option]())


def _extend_list(prefix: str, names: Iterable[str]) -> list[str]:
    """Return the lists that begin with the complete items of `prefix`, each with one of the remaining names."""
    *complete, _ = prefix.split(",")
    return [",".join([*complete, name]) for name in names if name not in complete]


def _add_settings(parser: argparse.ArgumentParser, job: str) -> None:
    """Add `--config.KEY` for each key of the config that the command line names."""
    words = _words()
    given = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    given += [after for word, after in itertools.pairwise(words) if word == "--config"]
    path = given[-1] if given else _DEFAULT_CONFIGS.get(job)
    if not path:
        return
    try:
        config = configs.load(find_config(str(path)), [], known=dict)
    except Exception:  # a config that is being written must not print a traceback into the command line
        return
    for key, value in _leaves(config):
        action = parser.add_argument(f"--config.{key}", help=repr(value))
        action.completer = lambda prefix, shown=value, **_: [str(shown)]


def _leaves(section: Mapping[str, Any], *path: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if hasattr(value, "keys"):
            yield from _leaves(value, *path, name)
        else:
            yield ".".join((*path, name)), value


def _words() -> Sequence[str]:
    """Return the words of the command line that the shell is editing, up to the cursor."""
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0"))]
    try:
        return shlex.split(line)
    except ValueError:  # within quotes
        return line.split()

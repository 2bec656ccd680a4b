"""Parse the command line: the job, its options, and the overrides of its config."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from arguments.help_texts import JOBS, OVERVIEW, epilog
from arguments.options import add_arguments, add_log_arguments
from arguments.unknown import describe_unknown
from foundation.command_line.option_values import split_list
from foundation.console import printable
from foundation.deprecation import warn_renamed
from foundation.suggestions import did_you_mean

RENAMED_OPTIONS = {"--processes": "--num_processes", "--process": "--process_id", "--parts": "--num_shards"}
EXIT_USAGE = 2


class CommandParser(argparse.ArgumentParser):
    """Argument parser that suggests the nearest valid choice."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with code 2."""
        invalid = re.search(r"invalid choice: '?([^']*)'? \(choose from (.*)\)", message)
        if invalid:
            message += "." + did_you_mean(invalid[1], re.findall(r"[\w.-]+", invalid[2]))
        super().error(printable(message))


def parse(arguments: Sequence[str], *, prog: str = "launch.py") -> tuple[argparse.Namespace, list[str]]:
    """Return the options of a job and the `--config.key=value` overrides; exit for unknown jobs and options.

    Without arguments, the overview is printed and the exit code is 2: an empty command of a script is not a success.
    """
    parser = build_parser(prog=prog)
    if not arguments:
        parser.print_help(sys.stdout)
        sys.exit(EXIT_USAGE)
    if arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        job = next((each for each in arguments if each in JOBS), "JOB")
        parser.error(f"{arguments[0]} precedes the job. Write the job first: {prog} {job} {arguments[0]} …")
    job, given = arguments[0], [_current_spelling(argument) for argument in arguments[1:]]
    submitted = _submitted_jobs(given) if job == "submit" else []
    if job in JOBS and not {"-h", "--help"} & set(given):
        given = _join_values(given, lambda name: name.startswith("--config.") or _takes_value(name, submitted))
        _check_known(parser, job, given, submitted)
    args, rest = parser.parse_known_args([job, *given])
    if args.job == "adapt":
        _check_adapt(parser, args)
    if args.job == "submit":
        args.job_options, rest = split_by_job(submitted, rest)
    overrides = [argument for argument in rest if argument.startswith("--config.")]
    for argument in rest:
        if argument not in overrides:
            parser.error(f"unexpected argument {argument!r}. Options are written --name=VALUE or --name VALUE.")
    return args, overrides


def build_parser(*, prog: str = "launch.py") -> CommandParser:
    """Return the parser of all jobs."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = CommandParser(prog=prog, description=OVERVIEW, formatter_class=formatter, allow_abbrev=False)
    parsers = parser.add_subparsers(dest="job", metavar="JOB", required=True, help=", ".join(JOBS))
    for job, summary in JOBS.items():
        job_parser = parsers.add_parser(
            job, description=summary, epilog=epilog(job), formatter_class=formatter, allow_abbrev=False
        )
        add_arguments(job_parser, job)
        add_log_arguments(job_parser)
    return parser


def job_parser(job: str) -> argparse.ArgumentParser:
    """Return a parser with the options of one job alone, without those that every job has."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    if job in JOBS:
        add_arguments(parser, job)
    return parser


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Return the options of a parser, such as `--workdir`."""
    return [name for action in parser._actions for name in action.option_strings]


def split_by_job(jobs: Iterable[str], arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the switches and `--name=value` arguments that each job accepts, and those that no job accepts."""
    job_options: dict[str, list[str]] = {job: [] for job in jobs}
    accepted = set()
    for job in set(job_options) & set(JOBS):
        parser = job_parser(job)
        names = option_names(parser)
        switches = {name for action in parser._actions if action.nargs == 0 for name in action.option_strings}
        job_options[job] = [
            each for each in arguments if each in switches or ("=" in each and each.partition("=")[0] in names)
        ]
        accepted.update(job_options[job])
    return job_options, [argument for argument in arguments if argument not in accepted]


def _check_known(parser: CommandParser, job: str, given: Sequence[str], submitted: Sequence[str]) -> None:
    """Exit for the first unknown option, before argparse misses a required one that it may misspell."""
    common = argparse.ArgumentParser()
    add_log_arguments(common)
    known = [name for each in (common, job_parser(job), *map(job_parser, submitted)) for name in option_names(each)]
    for number, argument in enumerate(given):
        name, equals, value = argument.partition("=")
        if not argument.startswith("-") or re.fullmatch(r"-[\d.].*", argument) or name in known:
            continue
        if name.startswith("--config.") and "--config" in known:
            continue
        if not equals and number + 1 < len(given) and not given[number + 1].startswith("--"):
            value = given[number + 1]
        parser.error(describe_unknown(name, value, jobs=[job, *submitted], known=known))


def _check_adapt(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit unless `adapt` has a checkpoint with two folders of images, or features without options of a checkpoint."""
    if args.features is None:
        missing = [f"--{name}" for name in ("checkpoint", "support", "query") if getattr(args, name) is None]
        if missing:
            parser.error(f"the following arguments are required: {', '.join(missing)}; or --features")
        return
    names = ("checkpoint", "support", "dtype", "image_size", "max_patches", "tokenizer", "canonicalize")
    given = next((f"--{name}={value}" for name in names if (value := getattr(args, name)) is not None), None)
    if args.template not in (None, ["none"]):
        given = f"--template={args.template[0]}"
    if args.placement:
        parser.error(f"--{args.placement} cannot be used with --features, which have no images. Leave out one of them.")
    if given:
        parser.error(f"{given} cannot be used with --features, which need no checkpoint. Leave out one of them.")


def _submitted_jobs(given: Sequence[str]) -> list[str]:
    """Return the jobs that `submit` starts."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--jobs", default="pretrain", nargs="?", const="pretrain")
    return split_list(parser.parse_known_args(given)[0].jobs)


def _takes_value(name: str, jobs: Iterable[str]) -> bool:
    """Return whether `name` is an option of one of `jobs` that is followed by a value."""
    actions = [action for job in jobs for action in job_parser(job)._actions]
    return any(name in action.option_strings and action.nargs != 0 for action in actions)


def _join_values(arguments: Sequence[str], takes_value: Callable[[str], bool]) -> list[str]:
    """Return the arguments with `--name value` written as `--name=value` for the options that `takes_value` selects."""
    joined: list[str] = []
    for argument in arguments:
        last = joined[-1] if joined else ""
        if last.startswith("--") and "=" not in last and not argument.startswith("--") and takes_value(last):
            joined[-1] = f"{last}={argument}"
        else:
            joined.append(argument)
    return joined


def _current_spelling(argument: str) -> str:
    """Return an argument with the current name of a renamed option."""
    name, equals, value = argument.partition("=")
    if name not in RENAMED_OPTIONS:
        return argument
    warn_renamed(name, RENAMED_OPTIONS[name])
    return RENAMED_OPTIONS[name] + equals + value

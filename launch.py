"""Entry point of all jobs: pretrain, export, evaluate, report, and the tools around them.

`main` parses the command line, calls the function of the job (jobs/) and turns errors into exit codes.
"""
# PYTHON_ARGCOMPLETE_OK

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - keep this file parseable by older versions, so that they get here
    sys.exit(
        "launch.py requires Python 3.11 or 3.12, and this is Python "
        f"{sys.version_info[0]}.{sys.version_info[1]}. Run `python3.12 -m venv .venv && .venv/bin/pip install -r "
        "requirements.txt`, then use .venv/bin/python."
    )

import argparse
import logging
import os
import pathlib
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import jobs
from arguments import evaluate_overrides, load_config, parse
from cluster.runtime.environment import choose_platform, restart, set_defaults
from cluster.runtime.exit_codes import (
    EXIT_PEER_LOST,
    EXIT_PREEMPTED,
    PEER_LOST,
    Terminated,
    exit_process,
    handle_thread_error,
    handle_unraisable,
    is_not_repeated,
    is_peer_lost,
    raise_terminated,
)
from foundation import log
from foundation.command_line.file_names import check_encoding
from foundation.command_line.option_values import split_list
from foundation.console import configure_streams, hidden_stderr, printable
from foundation.error_text import error_text, is_full

if TYPE_CHECKING:
    from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Run one job and return the exit code.

    0: success. 1: an error, printed as one sentence. 2: wrong usage, or no job. 130: interrupted. 75: preempted by
    SIGTERM; the scheduler should run the same command again. 76: another process of the run is lost.
    """
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        from arguments.completion import complete

        complete()
    configure_streams()
    log.configure()
    prog = "launch.py"
    if arguments is None:
        if sys.argv[1:] and not {"-h", "--help"} & set(sys.argv):
            restart()
        prog = "lixp" if pathlib.Path(sys.argv[0]).stem == "lixp" else prog
    args, overrides = parse(sys.argv[1:] if arguments is None else arguments, prog=prog)
    log.configure(level=args.log_level)
    if arguments is None:
        signal.signal(signal.SIGTERM, raise_terminated)
        sys.unraisablehook = handle_unraisable
        threading.excepthook = handle_thread_error
        logging.getLogger("concurrent.futures").addFilter(is_not_repeated)
    set_defaults(os.environ)
    choose_platform(os.environ)
    logging.getLogger("asyncio").disabled = True  # Orbax logs tracebacks there of errors that are reported below
    try:
        check_encoding(sys.argv[1:] if arguments is None else arguments)
        args.overrides = overrides
        config = None
        if args.job == "compile":
            with hidden_stderr():  # JAX's CUDA plugin prints that it found no driver
                import jax  # noqa: F401
        if getattr(args, "config", None):
            config = load_config(args.config, [*overrides, *evaluate_overrides(args)])
        return RUN[args.job](args, config) or 0
    except (KeyboardInterrupt, Exception) as error:
        return exit_code(error, traceback=args.traceback)


def exit_code(error: BaseException, *, traceback: bool) -> int:
    """Print an error as one sentence and return the exit code; raise it again if it is unexpected or `traceback`."""
    if Terminated.received:
        print("received SIGTERM; run the same command to resume from the last checkpoint", file=sys.stderr)
        return EXIT_PREEMPTED
    if isinstance(error, KeyboardInterrupt):
        print("\ninterrupted; run the same command to resume from the last checkpoint", file=sys.stderr)
        return 130
    missing = missing_package(error) or missing_platform(error)
    peer_lost = is_peer_lost(error)
    if traceback or not (missing or peer_lost or isinstance(error, (ValueError, OSError, FloatingPointError))):
        raise error
    if peer_lost:
        print(f"error: {error_text(PEER_LOST)} ({printable(error_text(error)[:200])})", file=sys.stderr)
        return EXIT_PEER_LOST
    way_out = ". Free space, and run the command again." if is_full(error) else ""
    print(f"error: {printable(missing or error_text(error))}{way_out}", file=sys.stderr)
    return 1


def missing_package(error: BaseException) -> str | None:
    """Return what to run if the error is a required package that is not installed, otherwise None."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not name or (ROOT / name).exists() or (ROOT / f"{name}.py").exists():
        return None
    return (
        f"the package {name} is not installed for {sys.executable}. Run `python3 -m venv .venv "
        "&& .venv/bin/pip install -r requirements.txt`, then use .venv/bin/python."
    )


def missing_platform(error: BaseException) -> str | None:
    """Return what to do if the error is a platform in JAX_PLATFORMS that JAX cannot use, otherwise None."""
    if not (isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error)):
        return None
    given = os.environ.get("JAX_PLATFORMS", "")
    return f"JAX cannot use JAX_PLATFORMS={given!r} ({error_text(error)}). Unset the variable, or set it to cpu."


def command() -> NoReturn:
    """Run one job and exit; the console command `lixp`."""
    exit_process(main())


def options(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the named options of the command line, as keyword arguments."""
    return {name: getattr(args, name) for name in names}


# job → function call with the options of the command line and the config
RUN: "dict[str, Callable[[argparse.Namespace, ConfigDict], int | None]]" = {
    "pretrain": lambda args, config: jobs.pretrain(
        config,
        args.workdir,
        **options(args, "coordinator", "num_processes", "process_id", "extend", "data_moved"),
    ),
    "align": lambda args, config: jobs.align(
        config,
        args.workdir,
        **options(args, "coordinator", "num_processes", "process_id", "extend", "data_moved"),
    ),
    "export": lambda args, config: jobs.export(
        args.workdir, **options(args, "out", "step", "format", "dtype", "license")
    ),
    "evaluate": lambda args, config: jobs.evaluate(
        config, args.workdir, **options(args, "checkpoint", "shard", "cache")
    ),
    "report": lambda args, config: jobs.report(args.workdir, config_path=args.config, **options(args, "baseline")),
    "quickstart": lambda args, config: jobs.quickstart(config, args.workdir),
    "inspect": lambda args, config: jobs.inspect_data(
        config, args.workdir, **options(args, "step", "steps", "rows", "pairs")
    ),
    "compile": lambda args, config: jobs.compile_step(config, args.topology, **options(args, "hlo", "json")),
    "submit": lambda args, config: jobs.submit(
        args.target,
        args.workdir,
        jobs=split_list(args.jobs),
        config_path=args.config,
        **options(args, "num_shards", "dry_run", "overrides", "job_options"),
    ),
    "adapt": lambda args, config: jobs.sort_photos(
        args.checkpoint,
        **options(args, "support", "query", "features", "out", "method", "template", "placement"),
        **options(args, "dtype", "image_size", "max_patches"),
        **options(args, "tokenizer", "canonicalize"),
    ),
    "label": lambda args, config: jobs.label(
        args.checkpoint,
        **options(args, "images", "out", "classes", "template", "host", "port", "no_browser"),
        **options(args, "dtype", "image_size", "max_patches", "tokenizer", "canonicalize"),
    ),
    "embed": lambda args, config: jobs.embed(
        args.checkpoint,
        **options(args, "out", "images", "texts", "image_features", "text_features", "data_dir", "shard"),
        **options(args, "dtype", "image_size", "max_patches", "tokenizer", "canonicalize"),
    ),
    "convert": lambda args, config: jobs.convert(
        args.checkpoint, **options(args, "out", "image_size", "max_patches", "tokenizer", "canonicalize")
    ),
}

if __name__ == "__main__":
    command()

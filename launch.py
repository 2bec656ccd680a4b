"""The one entrance: pretrain, export, evaluate and report, or all of them in turn with quickstart.

This file finds the job, its config and its workdir; the work is done in pretrain/ and adapt/, which meet only here.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import configs
from arguments import EVALUATE_ARGUMENTS, EVALUATE_CONFIG, parse
from cluster.config import SECTIONS as SUBMIT_SECTIONS
from cluster.config import SubmitSettings
from cluster.job_array import names_of, plan_tasks
from cluster.runtime.environment import set_defaults, use_huge_pages
from cluster.runtime.exit_codes import (
    LOST,
    LOST_OTHERS,
    RUN_AGAIN,
    Terminated,
    end,
    end_by_signal,
    has_others,
    lost_others,
    on_unraisable,
)
from cluster.runtime.process_discovery import find, join
from foundation import log
from foundation.error_text import error_text

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from adapt.embedding.encoder import Encoder
    from adapt.evaluation.online import EvaluationInTraining
    from adapt.evaluation.run import EvaluateSettings

JOBS_FILE = "jobs.jsonl"
QUICKSTART_ARGUMENTS = dict.fromkeys(("checkpoint", "out", "license", "dtype", "cache", "step"))
QUICKSTART_ARGUMENTS |= {"format": "huggingface", "shard": "0/1"}


def main(arguments: list[str] | None = None) -> int:
    """Runs one job; returns the exit code.

    It is 0, 1 for a failure that is told in a sentence, 130 for an interruption, 75 where SIGTERM ended the job, for
    schedulers to run the same command again, and 76 where another process of the run is gone.
    """
    args, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        use_huge_pages()
        signal.signal(signal.SIGTERM, end_by_signal)
        sys.unraisablehook = on_unraisable
    set_defaults(os.environ)
    log.configure()
    logging.getLogger("asyncio").disabled = True  # Orbax leaves copies of errors there that are told below
    try:
        config = None
        args.overrides = overrides
        if getattr(args, "config", None):
            config = load_config(args.config, [*overrides, *evaluate_overrides(args)])
        code = RUN[args.job](args, config)
    except (KeyboardInterrupt, Exception) as error:
        if Terminated.came:
            print("told to end; the same command goes on at what was saved last", file=sys.stderr)
            return RUN_AGAIN
        if isinstance(error, KeyboardInterrupt):
            print("\ninterrupted; the same command goes on at what was saved last", file=sys.stderr)
            return 130
        lost = lost_others(error)
        if args.traceback or not (lost or isinstance(error, ValueError | OSError | FloatingPointError)):
            raise
        why = f" ({error_text(error)[:200]})" if lost else ""
        print(f"error: {error_text(LOST_OTHERS if lost else error)}{why}", file=sys.stderr)
        return LOST if lost else 1
    return code or 0


def evaluate_overrides(args: argparse.Namespace) -> list[str]:
    """Returns the arguments of `evaluate` that stand for settings of the config as such."""
    from adapt.adapters.registry import METHODS, TRAINING_FREE

    if args.job != "evaluate":
        return []
    named = {"all": METHODS, "training_free": TRAINING_FREE}
    given = {key: getattr(args, key) for key in EVALUATE_ARGUMENTS if getattr(args, key) is not None}
    if given.get("methods") in named:
        given["methods"] = ",".join(named[given["methods"]])
    overrides = [f"--config.evaluate.{key}={value}" for key, value in given.items()]
    return overrides + ([] if args.data_dir is None else [f"--config.data_dir={args.data_dir}"])


def load_config(path: str, overrides: list[str]) -> ConfigDict:
    """Returns the config of a file with `--config.key=value` overrides; an unknown key names the known ones."""
    return configs.load(path, overrides, known_settings)


def known_settings() -> dict[tuple[str, ...], type]:
    """Returns the typed settings of each section of a config."""
    from adapt.evaluation.run import EvaluateSettings
    from models.config import TextSettings
    from pretrain.config.run import SECTIONS, PretrainSettings

    sections = {("pretrain", name): settings for name, settings in (SECTIONS | {"text": TextSettings}).items()}
    evaluations = dict.fromkeys([("evaluate",), ("evaluate_in_training",)], EvaluateSettings)
    submit = {("submit",): SubmitSettings} | {("submit", name): settings for name, settings in SUBMIT_SECTIONS.items()}
    return {("pretrain",): PretrainSettings} | evaluations | sections | submit


def pretrain(args: argparse.Namespace, config: ConfigDict) -> int:
    """Trains the run in `args.workdir`, or continues it, together with the other processes that there are."""
    given = {name: getattr(args, name, None) for name in ("coordinator", "processes", "process")}
    join(find(os.environ, **given))

    from pretrain.train import pretrain as train

    with job(args.workdir, "pretrain") as done:
        evaluate = evaluation_in_training(config)
        result = train(config.pretrain, args.workdir, data_dir=config.data_dir, evaluate=evaluate)
        done(f"steps {result.start_step}–{result.step} of {result.batch_size} pairs")
    return RUN_AGAIN if result.preempted else 0


def evaluation_in_training(config: ConfigDict) -> EvaluationInTraining | None:
    """Returns what evaluates the run while it trains, where the config asks for it: what both know is a folder."""
    from adapt.evaluation.online import EvaluationInTraining

    settings = evaluation_settings(config)
    return settings and EvaluationInTraining(settings, config.data_dir)


def evaluation_settings(config: ConfigDict) -> EvaluateSettings | None:
    """Returns how the run is evaluated while it trains, or None where it is not."""
    from adapt.evaluation.run import EvaluateSettings

    every = config.pretrain.get("evaluate_every")
    if not every:
        return None
    sections = [name for name in ("evaluate", "evaluate_in_training") if name in config]
    if not sections:
        raise ValueError(f"pretrain.evaluate_every is {every}, and the config has no section evaluate that says what")
    values = {name: value for section in sections for name, value in config[section].items()}
    return typed(EvaluateSettings, sections[-1], values)


def submit(args: argparse.Namespace, config: ConfigDict | None) -> int:
    """Sends jobs to a cluster, a task for each point of the config's sweep and each part of an evaluation."""
    from cluster.submission import submit as run
    from cluster.submit import prepare

    points = configs.load_sweep(args.config) if args.config else []
    tasks = plan_tasks(
        args.jobs.split(","),
        config=args.config,
        workdir=args.workdir,
        overrides=[each for each in args.overrides if not each.startswith("--config.submit.")],
        points=points,
        parts=args.parts,
        arguments=args.arguments,
    )
    for task in tasks:
        for command in task.commands:
            check_command(command.arguments, elsewhere=args.target not in ("local", "slurm"))
    if config is None:  # jobs that need none may be submitted with settings all the same
        own = [each for each in args.overrides if each.startswith("--config.submit.")]
        config = load_config(str(EVALUATE_CONFIG), own)
    section = dict(config.get("submit", {}))
    section |= {name: typed(kind, f"submit.{name}", section.get(name, {})) for name, kind in SUBMIT_SECTIONS.items()}
    prepared = prepare(args.target, tasks, typed(SubmitSettings, "submit", section), workdir=args.workdir)
    return run(prepared, dry_run=args.dry_run)


def check_command(arguments: Sequence[str], *, elsewhere: bool) -> None:
    """Raises `ValueError` where a job's command line names unknown or wrong settings; usage errors exit as ever.

    A checkpoint that a run begins with may lie `elsewhere`, where only the job sees it.
    """
    from adapt.evaluation.run import EvaluateSettings
    from pretrain.config.run import read_settings

    args, overrides = parse(list(arguments))
    config = load_config(args.config, [*overrides, *evaluate_overrides(args)]) if args.config else None
    if args.job == "pretrain":
        try:
            read_settings(config.pretrain, args.workdir)
        except FileNotFoundError as error:
            if not elsewhere:
                raise
            logger.info(f"settings that go with the checkpoint are not checked here ({error_text(error)})")
        evaluation_settings(config)
    if args.job == "evaluate":
        typed(EvaluateSettings, "evaluate", config.get("evaluate", {}))


def export(args: argparse.Namespace, config: ConfigDict) -> None:
    """Writes the exported directory."""
    from pretrain.checkpointing.export import export as write

    target = args.out or args.workdir / ("export.npz" if args.format == "big_vision" else "export")
    with job(args.workdir, "export") as done:
        options = {"step": args.step, "format": args.format, "dtype": args.dtype, "license": args.license}
        folder = write(args.workdir, target, **options)
        done(f"to {folder}")
    print(f"exported to {folder}", flush=True)
    if args.format == "big_vision":
        logger.info(f"it holds no tokenizer; give --tokenizer={args.workdir / 'tokenizer'} where it is opened")


def evaluate(args: argparse.Namespace, config: ConfigDict) -> None:
    """Evaluates the exported directory of the run, and nothing else of it, or the checkpoints that are named."""
    from adapt.evaluation.run import EvaluateSettings, Share, checkpoint_names, split_checkpoints
    from adapt.evaluation.run import evaluate as run
    from adapt.report.html_report import card_results
    from models.checkpoints.model_card import write_results
    from pretrain.monitoring.metric_writer import CollectionsProgress

    settings = typed(EvaluateSettings, "evaluate", config.evaluate)
    checkpoints = {args.workdir.name: args.workdir / "export"}
    if args.checkpoint:
        checkpoints = checkpoint_names(split_checkpoints(args.checkpoint))
    index, slash, count = args.shard.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise ValueError(f"--shard={args.shard} is no part of the work; write i/n, such as 0/4")
    with job(args.workdir, "evaluate") as done:
        rows = run(
            checkpoints,
            settings,
            out=args.workdir / "evaluation",
            data_dir=config.data_dir,
            cache=args.cache,
            share=Share(index=int(index), count=int(count)),
            progress=CollectionsProgress().show,
        )
        done(f"{len(rows)} results")
    if not args.checkpoint:
        write_results(args.workdir / "export", card_results(rows))


def sort_photos(args: argparse.Namespace, config: None) -> None:
    """Sorts pictures into classes of which a few examples are given."""
    from adapt.photos.pipeline import DEFAULT_TEMPLATE, Task
    from adapt.photos.pipeline import sort_photos as run
    from pretrain.monitoring.metric_writer import CollectionsProgress

    templates = tuple(args.template or (DEFAULT_TEMPLATE,))
    task = Task(
        support=os.path.expanduser(args.support),
        query=os.path.expanduser(args.query),
        out=args.out.expanduser(),
        method=args.method,
        templates=() if templates == ("none",) else templates,
    )
    task.check()
    run(open_encoder(args), task, progress=CollectionsProgress().show)


def embed(args: argparse.Namespace, config: None) -> None:
    """Writes the embeddings of images and texts."""
    from adapt.embedding.export import check_inputs, embed_collections
    from pretrain.monitoring.metric_writer import CollectionsProgress

    check_inputs(args.images, args.texts, args.data_dir)
    inputs = {"images": args.images, "texts": args.texts, "data_dir": args.data_dir}
    written = embed_collections(open_encoder(args), args.out, progress=CollectionsProgress().show, **inputs)
    for name, found in written.items():
        left_out = f", {found.bad} left out, see {found.files['bad']}" if found.bad else ""
        logger.info(f"{found.rows} {name} in {found.files['safetensors']}{left_out}")


def open_encoder(args: argparse.Namespace) -> Encoder:
    """Returns the checkpoint of the arguments, opened to embed."""
    import jax

    from adapt.embedding.encoder import Encoder

    dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    encoder = Encoder(args.checkpoint, dtype=dtype, image_size=args.image_size, tokenizer=args.tokenizer)
    logger.info(f"{args.checkpoint}: {encoder.dim} dimensions, {dtype}, {jax.device_count()} device(s)")
    return encoder


def convert(args: argparse.Namespace, config: None) -> None:
    """Writes a checkpoint in another format."""
    from models.checkpoints.big_vision import save_big_vision
    from models.checkpoints.io import describe_checkpoint, open_checkpoint, save_checkpoint

    if args.out.exists():
        raise FileExistsError(f"{args.out} is there already; name another --out")
    options = {"image_size": args.image_size}
    if args.out.suffix == ".npz" and args.tokenizer is not None:
        raise ValueError("an .npz holds no tokenizer; leave --tokenizer out")
    if args.out.suffix == ".npz":
        found = describe_checkpoint(args.checkpoint, **options)
        parameters = found.read(place=lambda path, array: array)
        save_big_vision(args.out, found.settings, parameters, found.scalars())
        logger.info(f"it holds no tokenizer; give --tokenizer={args.checkpoint} where it is opened")
    else:
        options |= {"tokenizer": args.tokenizer, "place": lambda path, array: array}
        save_checkpoint(args.out, open_checkpoint(args.checkpoint, **options))
    print(args.out, flush=True)


def report(args: argparse.Namespace, config: ConfigDict) -> None:
    """Writes the report of one run, or of all that lie in a folder; the config says which points a sweep has."""
    from adapt.report.html_report import write_report
    from adapt.report.results_index import read_all_runs

    points = names_of(configs.load_sweep(args.config)) if args.config else []
    runs = read_all_runs(args.workdir, expected=points)
    print(write_report(runs, args.workdir, title=f"Report of {args.workdir.resolve().name}"))


def inspect_data(args: argparse.Namespace, config: ConfigDict) -> None:
    """Writes the pages of a batch; leaves the run in the workdir as it is."""
    from pretrain.tools.inspect_batches import inspect

    counts = {"step": args.step, "steps": args.steps, "shown": args.rows}
    print(inspect(config.pretrain, args.workdir, data_dir=config.data_dir, **counts))


def compile_step(args: argparse.Namespace, config: ConfigDict) -> int:
    """Compiles for described devices; the exit code is 1 where the step does not fit them."""
    from pretrain.tools.aot_compile import compile_job

    return 0 if compile_job(config.pretrain, args.topology) else 1


def quickstart(args: argparse.Namespace, config: ConfigDict) -> int:
    """Runs all jobs in turn; with `--compare` once more without the context objective."""
    from adapt.report.html_report import write_report
    from adapt.report.results_index import read_runs

    runs = {"with context": args.workdir / "context"}
    if args.compare:
        runs["plain"] = args.workdir / "plain"
    for name, workdir in runs.items():
        with config.unlocked():
            config.pretrain.objective.context = name == "with context"
        print(f"\n{config.pretrain.objective.base} loss, {name}, in {workdir}", flush=True)
        for step in (pretrain, export, evaluate):
            if code := step(argparse.Namespace(workdir=workdir, **QUICKSTART_ARGUMENTS), config):
                return code
    results = [run for name, workdir in runs.items() for run in read_runs(workdir, name=name)]
    print(write_report(results, args.workdir, title="Quickstart: emoji"))
    return 0


def typed(settings: type, section: str, values: ConfigDict) -> Any:
    """Returns typed settings of a config section."""
    from models.config import build

    return build(settings, section, values)


@contextmanager
def job(workdir: pathlib.Path, name: str) -> Iterator[Callable[[str], None]]:
    """Notes in the workdir what a job did and how long it took; the job says what through the given function."""
    began = time.monotonic()
    what: list[str] = []
    print(f"— {name}", flush=True)
    yield what.append
    if has_others() and sys.modules["jax"].process_index():
        return
    line = {"job": name, "what": " ".join(what), "seconds": round(time.monotonic() - began, 2)}
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / JOBS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


RUN: dict[str, Callable[[argparse.Namespace, ConfigDict], int | None]] = {
    "pretrain": pretrain,
    "export": export,
    "evaluate": evaluate,
    "report": report,
    "submit": submit,
    "inspect": inspect_data,
    "adapt": sort_photos,
    "embed": embed,
    "convert": convert,
    "compile": compile_step,
    "quickstart": quickstart,
}

if __name__ == "__main__":
    end(main())

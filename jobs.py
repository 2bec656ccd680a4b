"""Job functions: each imports what it needs from pretrain/ and adapt/, which never import each other."""

from __future__ import annotations

import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import configs
from arguments import EVALUATE_CONFIG, evaluate_overrides, load_config, parse
from cluster.config import SECTIONS as SUBMIT_SECTIONS
from cluster.config import SubmitSettings
from cluster.job_array import plan_tasks, point_names
from cluster.runtime.exit_codes import EXIT_PREEMPTED, has_peers
from cluster.runtime.process_discovery import find_processes, join
from foundation.command_line.option_values import split_list
from foundation.console import printable
from foundation.error_text import error_text
from foundation.files.json_lines import append_json_line

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from adapt.embedding.encoder import Encoder
    from adapt.evaluation.config import EvaluateSettings, Shard
    from adapt.evaluation.online import EvaluationInTraining
    from pretrain.loop import TrainResult

logger = logging.getLogger(__name__)

JOBS_FILE = "jobs.jsonl"


def pretrain(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    extend: bool = False,
    data_moved: bool = False,
) -> int:
    """Train the run in `workdir` or resume it, together with the other processes of the run.

    `extend` allows a resumed run to become longer, `data_moved` to read the same data from another path.
    """
    join(find_processes(os.environ, coordinator=coordinator, num_processes=num_processes, process_id=process_id))

    from pretrain.train import pretrain as train

    return _train("pretrain", train, config, workdir, extend=extend, data_moved=data_moved)


def align(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    extend: bool = False,
    data_moved: bool = False,
) -> int:
    """Train heads on stored features, as `pretrain` trains towers."""
    join(find_processes(os.environ, coordinator=coordinator, num_processes=num_processes, process_id=process_id))

    from pretrain.align.train import align as train

    return _train("align", train, config, workdir, extend=extend, data_moved=data_moved)


def _train(
    job: str,
    train: Callable[..., TrainResult],
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    extend: bool,
    data_moved: bool,
) -> int:
    """Train the run that the config's section of a job describes; return the exit code."""
    from pretrain.config.resume import ResumeOptions

    if job not in config:
        raise ValueError(f"the config has no section {job}. Use a config for this job, such as those in configs/.")

    def record(change: str) -> None:
        append_json_line(workdir / JOBS_FILE, {"job": job, "what": f"resumed: {change}", "seconds": 0.0})

    with record_job(workdir, job) as describe:
        result = train(
            config[job],
            workdir,
            data_dir=config.data_dir,
            evaluate=evaluation_in_training(config, job),
            options=ResumeOptions(extend=extend, data_moved=data_moved),
            record=record,
        )
        describe(f"steps {result.start_step}–{result.step} of {result.batch_size} pairs")
    return EXIT_PREEMPTED if result.preempted else 0


def evaluation_in_training(config: ConfigDict, job: str = "pretrain") -> EvaluationInTraining | None:
    """Return the evaluation of a run while it trains, or None if the config asks for none."""
    from adapt.evaluation.online import EvaluationInTraining

    settings = evaluation_settings(config, job)
    return settings and EvaluationInTraining(settings, config.data_dir)


def evaluation_settings(config: ConfigDict, job: str = "pretrain") -> EvaluateSettings | None:
    """Return the settings of the evaluation while a run trains, or None if the config asks for none."""
    from adapt.evaluation.run import EvaluateSettings

    every = config[job].get("evaluate_every")
    if not every:
        return None
    sections = [name for name in ("evaluate", "evaluate_in_training") if name in config]
    if not sections:
        raise ValueError(
            f"{job}.evaluate_every is {every}, but the config has no section evaluate. Add one that names datasets."
        )
    values = {name: value for section in sections for name, value in config[section].items()}
    return typed(EvaluateSettings, sections[-1], values)


def export(
    workdir: pathlib.Path,
    *,
    out: pathlib.Path | None = None,
    step: int | None = None,
    format: str | None = None,
    dtype: str | None = None,
    license: str | None = None,
) -> None:
    """Export a checkpoint of the run; `format` is by default the first of those of its job."""
    from pretrain.align.config import SETTINGS_FILE as ALIGN_FILE
    from pretrain.align.export import export_aligned
    from pretrain.checkpointing.export import export as export_towers

    aligned = (workdir / ALIGN_FILE).is_file()
    write, format = export_aligned if aligned else export_towers, format or ("aligned" if aligned else "huggingface")
    target = out or workdir / ("export.npz" if format == "big_vision" else "export")
    with record_job(workdir, "export") as describe:
        path = write(workdir, target, step=step, format=format, dtype=dtype, license=license)
        describe(f"to {path}")
    print(f"exported to {printable(path)}", flush=True)
    if format == "big_vision":
        logger.info(f"the .npz contains no tokenizer; open it with --tokenizer={workdir / 'tokenizer'}")


def evaluate(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    checkpoint: str | None = None,
    shard: str = "0/1",
    cache: pathlib.Path | None = None,
) -> None:
    """Evaluate the export of the run, or the given checkpoints or stored features instead."""
    from adapt.evaluation.run import EvaluateSettings, Shard, checkpoint_names
    from adapt.evaluation.run import evaluate as run
    from adapt.report.card_results import card_results
    from foundation.progress import ProgressBars
    from models.checkpoints.model_card import write_results

    settings = typed(EvaluateSettings, "evaluate", config.evaluate)
    checkpoints = {workdir.name: workdir / "export"}
    if checkpoint:
        checkpoints = checkpoint_names(split_list(checkpoint))
    index, slash, count = shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise ValueError(f"--shard={shard} is not a shard. Write --shard=i/n, such as 0/4.")
    part = Shard(index=int(index), count=int(count))
    if settings.features:
        _evaluate_features(settings, workdir, checkpoint=checkpoint, cache=cache, shard=part)
        return
    with record_job(workdir, "evaluate") as describe:
        rows = run(
            checkpoints,
            settings,
            out=workdir / "evaluation",
            data_dir=config.data_dir,
            cache=cache,
            shard=part,
            progress=ProgressBars().show,
        )
        describe(f"{len(rows)} results")
    if not checkpoint:
        write_results(workdir / "export", card_results(rows))


def _evaluate_features(
    settings: EvaluateSettings,
    workdir: pathlib.Path,
    *,
    checkpoint: str | None,
    cache: pathlib.Path | None,
    shard: Shard,
) -> None:
    """Evaluate stored features; raise `ValueError` for options that only checkpoints have."""
    from adapt.evaluation.stored.run import evaluate_features

    for option, value in (("--checkpoint", checkpoint), ("--cache", cache)):
        if value is not None:
            raise ValueError(
                f"{option}={value} cannot be used with --features, which are evaluated without a checkpoint. Leave out "
                "one of them; `report` compares the workdirs in one folder."
            )
    with record_job(workdir, "evaluate") as describe:
        rows = evaluate_features(settings, out=workdir / "evaluation", shard=shard)
        describe(f"{len(rows)} results")


def report(workdir: pathlib.Path, *, config_path: str | None = None, baseline: str | None = None) -> None:
    """Write the report of a run, or of all runs in a folder, compared with the run named `baseline`.

    The config file names the points of a sweep.
    """
    from adapt.report.html_report import write_report
    from adapt.report.results_index import read_all_runs

    points = point_names(configs.load_sweep(config_path)) if config_path else []
    runs = read_all_runs(workdir, expected=points)
    print_path(write_report(runs, workdir, title=f"Report of {workdir.resolve().name}", baseline=baseline))


def quickstart(config: ConfigDict, workdir: pathlib.Path) -> int:
    """Align a frozen encoder with and without the context objective, and report both next to the encoder alone."""
    from adapt.report.html_report import write_report
    from adapt.report.results_index import read_runs

    encoder, features, cache = config.embed.checkpoint, workdir / "features", workdir / "embeddings"
    logger.info(f"\nfeatures of {encoder}, in {features}")
    embed(
        encoder,
        out=features,
        images=config.embed.images,
        image_size=config.embed.image_size,
        data_dir=config.data_dir,
    )
    runs = {"plain": config.plain, "context": {}}  # the report compares with the first
    for name, changes in runs.items():
        run = config.copy_and_resolve_references()
        with run.unlocked():
            run.align.update(changes)
            run.align.image_features = (os.fspath(features),)
        folder = workdir / name
        logger.info(f"\n{run.align.objective.base} loss, {name}, in {folder}")
        code = align(run, folder)
        if code:
            return code
        export(folder)
        evaluate(run, folder, cache=cache)
    logger.info(f"\nthe encoder alone, {encoder}")
    alone = config.copy_and_resolve_references()
    with alone.unlocked():
        alone.evaluate.image_size = config.embed.image_size
    evaluate(alone, workdir / "encoder", checkpoint=f"encoder={encoder}", cache=cache)
    results = [run for name in (*runs, "encoder") for run in read_runs(workdir / name, name=name)]
    with config.unlocked():
        config.evaluate.update(config.photos)
    exports = ",".join(f"{name}={workdir / name / 'export'}" for name in runs)
    evaluate(config, workdir / "photos", checkpoint=f"{exports},encoder={encoder}", cache=cache)
    report(workdir / "photos")
    print_path(write_report(results, workdir, title="Quickstart: icons"))
    return 0


def inspect_data(
    config: ConfigDict, workdir: pathlib.Path, *, step: int = 0, steps: int = 8, rows: int = 64, pairs: int = 8192
) -> None:
    """Write pages that show the batch of a step and advise on context; the run in the workdir does not change."""
    if "pretrain" not in config and "align" in config:
        from pretrain.tools.inspect_pairs import inspect_pairs

        print_path(inspect_pairs(config.align, workdir, data_dir=config.data_dir, pairs=pairs))
        return
    from pretrain.tools.inspect_batches import inspect

    print_path(
        inspect(config.pretrain, workdir, data_dir=config.data_dir, step=step, steps=steps, shown=rows, pairs=pairs)
    )


def compile_step(
    config: ConfigDict, topology: str, *, hlo: pathlib.Path | None = None, json: pathlib.Path | None = None
) -> int:
    """Compile the training step ahead of time; return 1 if it does not fit the topology."""
    from pretrain.compilation.job import compile_job

    return 0 if compile_job(config.pretrain, topology, hlo=hlo, json_file=json) else 1


def sort_photos(
    checkpoint: str | None,
    *,
    support: str | None,
    query: str | None,
    out: pathlib.Path,
    features: str | None = None,
    method: str = "auto",
    template: Sequence[str] | None = None,
    dtype: str | None = None,
    image_size: int | None = None,
    tokenizer: str | None = None,
    canonicalize: str | None = None,
) -> None:
    """Sort images into the classes of the example images, or stored features into those of labelled ones."""
    if features is not None:
        _sort_features(features, query=query, out=out, method=method, with_texts=template is None)
        return
    from adapt.photos.pipeline import SortingTask
    from adapt.photos.pipeline import sort_photos as run
    from foundation.progress import ProgressBars

    templates = tuple(template) if template else None
    task = SortingTask(
        support=support,
        query=query,
        out=out,
        method=method,
        templates=() if templates == ("none",) else templates,
    )
    task.check()
    encoder = open_encoder(
        checkpoint, dtype=dtype, image_size=image_size, tokenizer=tokenizer, canonicalize=canonicalize
    )
    run(encoder, task, progress=ProgressBars().show)


def _sort_features(features: str, *, query: str | None, out: pathlib.Path, method: str, with_texts: bool) -> None:
    from adapt.photos.stored_features import FeatureSortingTask, sort_features

    sort_features(FeatureSortingTask(features=features, query=query, out=out, method=method, with_texts=with_texts))


def embed(
    checkpoint: str,
    *,
    out: pathlib.Path,
    images: str | None = None,
    texts: str | None = None,
    image_features: str | None = None,
    text_features: str | None = None,
    data_dir: str = "runs/data",
    dtype: str | None = None,
    image_size: int | None = None,
    tokenizer: str | None = None,
    canonicalize: str | None = None,
) -> None:
    """Write the embeddings of images, texts or both."""
    from adapt.embedding.export import check_inputs, embed_collections
    from foundation.progress import ProgressBars

    features = {"image_features": image_features, "text_features": text_features}
    check_inputs(out, images, texts, data_dir, **features)
    encoder = open_encoder(
        checkpoint, dtype=dtype, image_size=image_size, tokenizer=tokenizer, canonicalize=canonicalize
    )
    progress = ProgressBars().show
    written = embed_collections(
        encoder, out, images=images, texts=texts, **features, data_dir=data_dir, progress=progress
    )
    for name, found in written.items():
        skipped = f", {found.bad} skipped, see {found.files['bad']}" if found.bad else ""
        logger.info(f"{found.rows} {name} in {found.files['safetensors']}{skipped}")


def open_encoder(
    checkpoint: str,
    *,
    dtype: str | None,
    image_size: int | None,
    tokenizer: str | None,
    canonicalize: str | None,
) -> Encoder:
    """Open a checkpoint for embedding."""
    import jax

    from adapt.embedding.encoder import Encoder

    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    options = {"image_size": image_size, "tokenizer": tokenizer, "canonicalize": canonicalize}
    encoder = Encoder(checkpoint, dtype=dtype, **options)
    logger.info(f"{checkpoint}: {encoder.dim} dimensions, {dtype}, {jax.device_count()} device(s)")
    return encoder


def convert(
    checkpoint: str,
    *,
    out: pathlib.Path,
    image_size: int | None = None,
    tokenizer: str | None = None,
    canonicalize: str | None = None,
) -> None:
    """Write a checkpoint in another format: an .npz for big_vision, otherwise a Hugging Face directory."""
    from models.checkpoints.big_vision import save_big_vision
    from models.checkpoints.describe import describe_checkpoint
    from models.checkpoints.io import open_checkpoint, save_checkpoint

    if out.exists():
        raise FileExistsError(f"{out} already exists. Choose another --out.")

    def on_host(path: str, array: Any) -> Any:
        return array

    if out.suffix != ".npz":
        texts = {"tokenizer": tokenizer, "canonicalize": canonicalize}
        save_checkpoint(out, open_checkpoint(checkpoint, image_size=image_size, place=on_host, **texts))
    elif tokenizer is not None or canonicalize is not None:
        option = f"--canonicalize={canonicalize}" if tokenizer is None else f"--tokenizer={tokenizer}"
        raise ValueError(f"{option} cannot be written: an .npz contains no tokenizer. Omit the option.")
    else:
        found = describe_checkpoint(checkpoint, image_size=image_size)
        found.check_towers()
        save_big_vision(out, found.settings, parameters=found.read(place=on_host), scalars=found.scalars())
        logger.info(f"the .npz contains no tokenizer; open it with --tokenizer={checkpoint}")
    print_path(out)


def submit(
    target: str,
    workdir: pathlib.Path,
    *,
    jobs: Sequence[str] = ("pretrain",),
    num_shards: int = 1,
    dry_run: bool = False,
    config_path: str | None = None,
    overrides: Sequence[str] = (),
    job_options: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Submit jobs to a cluster, one task per point of the config's sweep and shard of an evaluation."""
    from cluster.submission import submit as run
    from cluster.submit import prepare

    own = [override for override in overrides if override.startswith("--config.submit.")]
    tasks = plan_tasks(
        jobs,
        config=config_path,
        workdir=workdir,
        overrides=[override for override in overrides if override not in own],
        points=configs.load_sweep(config_path) if config_path else [],
        num_shards=num_shards,
        arguments=job_options,
    )
    for task in tasks:
        for each in task.commands:
            check_command(each.arguments, remote=target not in ("local", "slurm"))
    config = load_config(config_path or str(EVALUATE_CONFIG), own)  # any config has the defaults of this section
    section = dict(config.get("submit", {}))
    section |= {name: typed(kind, f"submit.{name}", section.get(name, {})) for name, kind in SUBMIT_SECTIONS.items()}
    workdir = workdir.expanduser() if target in ("local", "slurm") else workdir
    prepared = prepare(target, tasks, typed(SubmitSettings, "submit", section), workdir=workdir)
    return run(prepared, dry_run=dry_run)


def check_command(arguments: Sequence[str], *, remote: bool) -> None:
    """Raise `ValueError` if the command line of a job contains unknown or invalid settings; exit for unknown options.

    The initial checkpoint of a `remote` run may exist on the machines of the cluster only.
    """
    from adapt.evaluation.run import EvaluateSettings
    from pretrain.align.config import read_settings as read_align_settings
    from pretrain.config.run import read_settings

    args, overrides = parse(arguments)
    config = load_config(args.config, [*overrides, *evaluate_overrides(args)]) if args.config else None
    if args.job == "align":
        read_align_settings(config.align)
        evaluation_settings(config, args.job)
    if args.job == "pretrain":
        try:
            read_settings(config.pretrain, args.workdir)
        except FileNotFoundError as error:
            if not remote:
                raise
            logger.info(f"settings that depend on the initial checkpoint are not checked ({error_text(error)})")
        evaluation_settings(config)
    if args.job == "evaluate":
        typed(EvaluateSettings, "evaluate", config.get("evaluate", {}))


def print_path(path: pathlib.Path) -> None:
    """Print the path of the result of a job."""
    print(printable(path), flush=True)


def typed(settings: type, section: str, values: Mapping[str, Any]) -> Any:
    """Return the typed settings of a config section."""
    from foundation.settings import build

    return build(settings, section, values)


@contextmanager
def record_job(workdir: pathlib.Path, name: str) -> Iterator[Callable[[str], None]]:
    """Append the job, its duration and a description to `workdir/jobs.jsonl`; yield a function for the description."""
    start = time.monotonic()
    descriptions: list[str] = []
    logger.info(f"— {name}")
    yield descriptions.append
    if has_peers() and sys.modules["jax"].process_index():
        return
    line = {"job": name, "what": " ".join(descriptions), "seconds": round(time.monotonic() - start, 2)}
    append_json_line(workdir / JOBS_FILE, line)

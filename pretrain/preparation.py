"""Preparation of a run: checks, the claim on the workdir, the compiled step, the initial state and the batches."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data.pipeline.bad_records import BadRecordTracker
from data.pipeline.loader import BatchIterator, BatchLoader
from data.sources.open import ConcatenatedSource
from models.text.tokenizer import Tokenizer, load_tokenizer
from models.towers import count_parameters
from pretrain.checkpointing.best import BestCheckpoints
from pretrain.checkpointing.manager import Checkpoints
from pretrain.checkpointing.warm_start import start_from_checkpoint
from pretrain.config.resume import ResumeOptions, compare_settings, write_settings
from pretrain.config.run import SETTINGS_FILE, PretrainSettings
from pretrain.data_identity import compare_data, write_data
from pretrain.distributed import sharding
from pretrain.input_pipeline import (
    ORDER_FILE,
    prepare_order,
    prepare_tokenizer,
)
from pretrain.loss_rollback import read_skipped
from pretrain.monitoring.metric_writer import METRICS_FILE, MetricsWriter
from pretrain.monitoring.wandb_writer import WandbRun
from pretrain.monitoring.watchdog import Watchdog
from pretrain.online_evaluation import Evaluate
from pretrain.train_step import StepResult, TrainState, TrainStep, abstract_batch, build_train_step

logger = logging.getLogger(__name__)

BAD_RECORDS_FILE = "bad_records.jsonl"


def check_settings(settings: PretrainSettings, mesh: Mesh, *, workdir: pathlib.Path, evaluate: Evaluate | None) -> None:
    """Raise `ValueError` for settings that do not fit together; nothing is traced or written."""
    has_tokenizer = (workdir / "tokenizer").is_dir()
    build_train_step(settings, mesh, model=settings.model(1 if has_tokenizer else settings.max_vocab_size()))
    if settings.evaluate_every and evaluate is None:
        raise ValueError(
            f"evaluate_every is {settings.evaluate_every}, but no evaluation was passed to pretrain(evaluate=...). "
            "Pass one, or set evaluate_every to 0."
        )
    objective = settings.objective
    if objective.logit_scale_limit and objective.logit_scale > objective.logit_scale_limit * 1.001:
        logger.warning(
            f"objective.logit_scale starts at {objective.logit_scale:.4g}, and the first step clamps it to "
            f"{objective.logit_scale_limit:.4g}. Set objective.max_logit_scale to change the limit (0: none)."
        )


def warn_of_repeated_samples(settings: PretrainSettings, lengths: Sequence[int]) -> None:
    """Log a warning if a batch is larger than the data, so that it contains samples more than once."""
    distinct, weights = settings.batch_size // settings.data.views, settings.data.weights
    for name, length, weight in zip(settings.data.sources, lengths, weights, strict=bool(weights)):
        share = distinct * weight / sum(weights)
        if share > length:
            logger.warning(
                f"a batch has about {share:.0f} samples of {name}, which has {length:,}: a batch contains samples more "
                "than once"
            )
    if not weights and distinct > sum(lengths):
        logger.warning(
            f"a batch has {distinct:,} samples, but the data has {sum(lengths):,}: a batch contains samples more than "
            "once, as if they did not match. Reduce batch_size."
        )


def claim(
    workdir: pathlib.Path,
    settings: PretrainSettings,
    source: ConcatenatedSource,
    *,
    options: ResumeOptions,
    record: Callable[[str], None],
) -> Tokenizer:
    """Prepare `workdir` for the run on the first process, or check that it contains the same run.

    Changes that `options` or their nature allow are logged and passed to `record`. Returns the tokenizer on all
    processes. Raises `ValueError` if settings or data have changed, and
    `FileNotFoundError` if a process does not see the workdir of the first.
    """
    tokenizer = None
    if jax.process_index() == 0:
        changes = compare_settings(workdir, settings, num_samples=len(source), options=options)
        data = compare_data(workdir, settings.data.sources, source.sources, moved=options.data_moved)
        for change in changes:
            logger.warning(f"resuming with a change: {change}")
            record(change)
        write_settings(workdir, settings)
        write_data(workdir, data)
        tokenizer = prepare_tokenizer(workdir / "tokenizer", source, settings)
        prepare_order(workdir / ORDER_FILE, source, settings)
    wait_for_all_processes("workdir claimed")
    if not (workdir / SETTINGS_FILE).is_file():
        raise FileNotFoundError(
            f"process {jax.process_index()} does not see {workdir / SETTINGS_FILE}, which process 0 has written. "
            "Use a --workdir on a file system that all hosts share."
        )
    return tokenizer or load_tokenizer(workdir / "tokenizer", length=settings.text["length"])


def compile_in_background(
    train_step: TrainStep, settings: PretrainSettings, mesh: Mesh
) -> concurrent.futures.Future[Callable[[TrainState, Any], StepResult]]:
    """Compile the step in a thread; return the future of the compiled step."""
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="compilation")
    future = executor.submit(_compile, train_step, settings, mesh)
    executor.shutdown(wait=False)
    return future


def _compile(train_step: TrainStep, settings: PretrainSettings, mesh: Mesh) -> Callable[[TrainState, Any], StepResult]:
    return train_step.step.lower(train_step.abstract_state, abstract_batch(settings, mesh)).compile()


def restore(checkpoints: Checkpoints, settings: PretrainSettings, train_step: TrainStep) -> TrainState:
    """Return the state of the newest checkpoint, or the initial state if there is none."""
    if checkpoints.latest_step() is None:
        return initialize(settings, train_step)
    state = checkpoints.restore(train_step.abstract_state)
    logger.info(f"resuming at step {int(state.step)}")
    return state


def initialize(settings: PretrainSettings, train_step: TrainStep) -> TrainState:
    """Return the initial state: random, or that of `initial_checkpoint`."""
    if settings.initial_checkpoint is None:
        return train_step.init()
    return start_from_checkpoint(settings, train_step)


def open_batches_after(
    step: int,
    *,
    loader: BatchLoader,
    settings: PretrainSettings,
    mesh: Mesh,
    workdir: pathlib.Path,
    bad_records: BadRecordTracker,
) -> BatchIterator:
    """Return the batches that follow `step` on the devices, without those that rollbacks have skipped."""
    sampler = dataclasses.replace(loader.sampler, skipped=read_skipped(workdir))
    return dataclasses.replace(loader, sampler=sampler).batches(
        step,
        rows=sharding.local_rows(settings.batch_size),
        threads=settings.data.threads,
        workers=settings.data.workers,
        bad_records=bad_records,
        place=functools.partial(sharding.place_batch, mesh=mesh),
    )


def create_best(settings: PretrainSettings, workdir: pathlib.Path) -> BestCheckpoints | None:
    """Return the choice of the best checkpoint by `keep_best`, or None if that is not set."""
    if settings.keep_best is None:
        return None
    return BestCheckpoints(workdir / METRICS_FILE, settings.keep_best, evaluate_every=settings.evaluate_every)


def log_size(
    settings: PretrainSettings, mesh: Mesh, train_step: TrainStep, *, tokenizer: Tokenizer, num_samples: int
) -> None:
    """Log the size of the model, the data and the hardware."""
    parameters = count_parameters(train_step.abstract_state.parameters)
    epochs = settings.num_steps(num_samples) * settings.batch_size / num_samples
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    logger.info(
        f"model: {parameters:,} parameters, {tokenizer.vocab_size:,} tokens; {num_samples:,} samples, "
        f"{epochs:.3g} epochs; {mesh.size} device(s){processes}"
    )


def open_writer(workdir: pathlib.Path, settings: PretrainSettings, *, start_step: int) -> MetricsWriter | None:
    """Return the writer of metrics, with Weights & Biases if the settings ask for it; None on other processes."""
    if jax.process_index() > 0:
        return None
    mirror = WandbRun(workdir, settings) if settings.monitor.wandb else None
    return MetricsWriter(workdir, start_step=start_step, log_every=settings.log_every, mirror=mirror)


def open_bad_records(workdir: pathlib.Path, settings: PretrainSettings) -> BadRecordTracker:
    """Return the tracker of unusable records, with a file per process."""
    name = BAD_RECORDS_FILE if jax.process_index() == 0 else f"bad_records.host-{jax.process_index()}.jsonl"
    return BadRecordTracker(max_share=settings.data.max_bad_share, window=settings.data.bad_window, path=workdir / name)


def open_watchdog(workdir: pathlib.Path, settings: PretrainSettings) -> Watchdog:
    """Return the watchdog of this process."""
    path = workdir / "stalls" / f"host-{jax.process_index()}.txt"
    return Watchdog(path, seconds=settings.monitor.stall_seconds, end=settings.monitor.end_when_stalled)


def wait_for_all_processes(name: str) -> None:
    """Wait until all processes of the run have called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

"""Preparation of a run: checks, the claim on the workdir, the initial state and the logs."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data.pipeline.bad_records import BadRecordTracker
from foundation.files.folder_lock import lock_folder
from foundation.files.output_folder import RUN_FILES
from models.towers import count_parameters
from pretrain.checkpointing.best import BestCheckpoints
from pretrain.checkpointing.warm_start import start_from_checkpoint
from pretrain.config.resume import ResumeOptions, compare_settings, write_settings
from pretrain.config.run import PretrainSettings
from pretrain.config.training import RunSettings
from pretrain.data_identity import DataIdentity, write_data
from pretrain.distributed.preemption import Preemption
from pretrain.monitoring.metric_writer import METRICS_FILE, MetricsWriter
from pretrain.monitoring.wandb_writer import WandbRun
from pretrain.monitoring.watchdog import Watchdog
from pretrain.online_evaluation import Evaluate
from pretrain.train_step import TrainState, TrainStep, build_train_step

logger = logging.getLogger(__name__)

BAD_RECORDS_FILE = "bad_records.jsonl"


def check_model(settings: PretrainSettings, mesh: Mesh, *, workdir: pathlib.Path) -> None:
    """Raise `ValueError` for towers, a batch or rules that do not fit together; nothing is traced or written."""
    has_tokenizer = (workdir / "tokenizer").is_dir()
    model = settings.model(1 if has_tokenizer else settings.max_vocab_size())
    if model.remat == "auto":  # chosen and logged when the run builds its step
        model = dataclasses.replace(model, remat="none")
    build_train_step(settings, mesh, model=model)


def check_settings(settings: RunSettings, *, evaluate: Evaluate | None) -> None:
    """Raise `ValueError` for a missing evaluation, and warn of a scale that is clamped."""
    if settings.evaluate_every and evaluate is None:
        raise ValueError(
            f"evaluate_every is {settings.evaluate_every}, but no evaluation was passed as evaluate=.... "
            "Pass one, or set evaluate_every to 0."
        )
    objective = settings.objective
    if objective.logit_scale_limit and objective.logit_scale > objective.logit_scale_limit * 1.001:
        logger.warning(
            f"objective.logit_scale starts at {objective.logit_scale:.4g}, and the first step clamps it to "
            f"{objective.logit_scale_limit:.4g}. Set objective.max_logit_scale to change the limit (0: none)."
        )


@contextmanager
def hold(workdir: pathlib.Path) -> Iterator[Preemption]:
    """Keep other processes out of `workdir`, and watch for the scheduler's signal."""
    with ExitStack() as stack:
        preemption = stack.enter_context(Preemption())
        if jax.process_index() == 0:
            stack.enter_context(lock_folder(workdir, "run.lock", job="run", option="--workdir"))
        yield preemption


def claim(
    file: pathlib.Path,
    settings: RunSettings,
    *,
    load: Callable[[pathlib.Path], RunSettings],
    num_samples: int,
    compare_data: Callable[[], DataIdentity],
    options: ResumeOptions,
    record: Callable[[str], None],
    prepare: Callable[[], None],
) -> None:
    """Prepare a workdir for the run on the first process, or check that it contains the same run.

    `file` in the workdir holds the settings, which `load` reads. `compare_data` returns the identity of the data, which
    it compares with that in the workdir, and `prepare` makes what else all processes read. Changes that `options` or
    their nature allow are logged and passed to `record`. Raises `ValueError` if settings or data have changed or the
    run is that of another job, and `FileNotFoundError` if a process does not see the workdir of the first.
    """
    workdir = file.parent
    if jax.process_index() == 0:
        check_job(file)
        kept = load(workdir) if file.is_file() else None
        changes = compare_settings(workdir, settings, kept=kept, num_samples=num_samples, options=options)
        data = compare_data()
        for change in changes:
            logger.warning(f"resuming with a change: {change}")
            record(change)
        write_settings(file, settings)
        write_data(workdir, data)
        prepare()
    wait_for_all_processes("workdir claimed")
    if not file.is_file():
        raise FileNotFoundError(
            f"process {jax.process_index()} does not see {file}, which process 0 has written. "
            "Use a --workdir on a file system that all hosts share."
        )


def check_job(file: pathlib.Path) -> None:
    """Raise `ValueError` if the workdir of a settings file holds a run of another job."""
    other = next((name for name in RUN_FILES if name != file.name and file.with_name(name).is_file()), None)
    if other is not None:
        job, own = (pathlib.PurePath(name).stem for name in (other, file.name))
        raise ValueError(f"{file.parent} contains a run of `{job}`. Use another --workdir for `{own}`.")


def initialize(settings: PretrainSettings, train_step: TrainStep) -> TrainState:
    """Return the initial state: random, or that of `initial_checkpoint`."""
    if settings.initial_checkpoint is None:
        return train_step.init()
    return start_from_checkpoint(settings, train_step)


def create_best(settings: RunSettings, workdir: pathlib.Path) -> BestCheckpoints | None:
    """Return the choice of the best checkpoint by `keep_best`, or None if that is not set."""
    if settings.keep_best is None:
        return None
    return BestCheckpoints(workdir / METRICS_FILE, settings.keep_best, evaluate_every=settings.evaluate_every)


def log_size(
    settings: RunSettings, mesh: Mesh, train_step: TrainStep, *, vocab_size: int | None, num_samples: int
) -> None:
    """Log the size of the model, the data and the hardware."""
    parameters = count_parameters(train_step.abstract_state.parameters)
    epochs = settings.num_steps(num_samples) * settings.batch_size / num_samples
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    tokens = "" if vocab_size is None else f", {vocab_size:,} tokens"
    logger.info(
        f"model: {parameters:,} parameters{tokens}; {num_samples:,} samples, "
        f"{epochs:.3g} epochs; {mesh.size} device(s){processes}"
    )
    objective = settings.objective
    if objective.context_start_step:
        start, full = objective.context_start_step, objective.context_start_step + objective.context_ramp_steps + 1
        passed = start * settings.batch_size / num_samples
        logger.info(
            f"context loss: starts after step {start:,} (epoch {passed:.3g}), with its full weight from step {full:,} "
            f"of {settings.num_steps(num_samples):,}"
        )


def open_writer(workdir: pathlib.Path, settings: RunSettings, *, start_step: int) -> MetricsWriter | None:
    """Return the writer of metrics, with Weights & Biases if the settings ask for it; None on other processes."""
    if jax.process_index() > 0:
        return None
    mirror = WandbRun(workdir, settings) if settings.monitor.wandb else None
    return MetricsWriter(workdir, start_step=start_step, log_every=settings.log_every, mirror=mirror)


def open_bad_records(workdir: pathlib.Path, max_share: float, *, window: int) -> BadRecordTracker:
    """Return the tracker of unusable records, with a file per process."""
    name = BAD_RECORDS_FILE if jax.process_index() == 0 else f"bad_records.host-{jax.process_index()}.jsonl"
    return BadRecordTracker(max_share=max_share, window=window, path=workdir / name)


def open_watchdog(workdir: pathlib.Path, settings: RunSettings) -> Watchdog:
    """Return the watchdog of this process."""
    path = workdir / "stalls" / f"host-{jax.process_index()}.txt"
    return Watchdog(path, seconds=settings.monitor.stall_seconds, end=settings.monitor.end_when_stalled)


def wait_for_all_processes(name: str) -> None:
    """Wait until all processes of the run have called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

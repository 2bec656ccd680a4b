"""The training loop: prepare a run, restore its state, and take steps until the budget is spent."""

from __future__ import annotations

import functools
import logging
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import jax

from foundation.files.folder_lock import lock_folder
from foundation.files.json_lines import parse_json_lines
from foundation.progress import ProgressBar, format_duration
from pretrain.checkpointing.best import BestCheckpoints
from pretrain.checkpointing.manager import Checkpoints, check_folder_name
from pretrain.config.resume import ResumeOptions
from pretrain.config.run import read_settings
from pretrain.distributed import sharding
from pretrain.distributed.preemption import Preemption
from pretrain.input_pipeline import ORDER_FILE, create_loader, open_data, prepare_order
from pretrain.loss_rollback import (
    WATCHED_METRICS,
    BadLossError,
    RecoverySettings,
    check_loss,
    find_rollback_checkpoint,
    read_rollbacks,
    record_rollback,
)
from pretrain.losses.equal_texts import create_equal_text_counter
from pretrain.monitoring.metric_writer import METRICS_FILE, MetricsWriter
from pretrain.monitoring.profiler import Profile
from pretrain.monitoring.step_log import StepLog
from pretrain.monitoring.throughput import Stopwatch, Throughput
from pretrain.online_evaluation import Evaluate, Evaluations
from pretrain.optim.optimizer import create_schedule
from pretrain.preparation import (
    check_settings,
    claim,
    compile_in_background,
    create_best,
    initialize,
    log_size,
    open_bad_records,
    open_batches_after,
    open_watchdog,
    open_writer,
    restore,
    wait_for_all_processes,
    warn_of_repeated_samples,
)
from pretrain.train_step import Metrics, build_train_step

logger = logging.getLogger(__name__)

_UNCHANGED = ResumeOptions()


class TrainResult(NamedTuple):
    """The steps taken by one call of `pretrain`: from `start_step` to `step`, each of `batch_size` pairs.

    `preempted` is True if the scheduler stopped the run before it was complete; the next call resumes from `step`.
    """

    start_step: int
    step: int
    batch_size: int
    preempted: bool = False


def pretrain(
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    *,
    data_dir: str | os.PathLike,
    evaluate: Evaluate | None = None,
    options: ResumeOptions = _UNCHANGED,
    record: Callable[[str], None] = lambda change: None,
) -> TrainResult:
    """Train the run that the `pretrain` section of a config describes, or resume the run in `workdir`.

    Writes `pretrain.json`, `data.json`, `tokenizer/`, `checkpoints/`, `metrics.jsonl`, `tensorboard/` and, if needed,
    `bad_records.jsonl` and `skipped.jsonl` to `workdir`, which all hosts share. Every `evaluate_every` steps,
    `evaluate` is called with an export of the towers. `options` allow changes of a run that is resumed; each change is
    logged and passed to `record`. On SIGTERM, a checkpoint is saved within one step and the
    function returns.
    """
    workdir = pathlib.Path(workdir)
    check_folder_name(workdir)

    # Read the settings: mistakes are reported before anything is written.
    settings = read_settings(config, workdir)
    mesh = sharding.create_mesh(settings.mesh.fsdp)
    check_settings(settings, mesh, workdir=workdir, evaluate=evaluate)

    # Open the data.
    logger.info(f"data: {', '.join(settings.data.sources)}")
    source = open_data(settings, data_dir)

    with ExitStack() as stack:
        # Claim the workdir: one run at a time, with the settings and the data that it started with.
        preemption = stack.enter_context(Preemption())
        if jax.process_index() == 0:
            stack.enter_context(lock_folder(workdir, "run.lock", job="run", option="--workdir"))
        tokenizer = claim(workdir, settings, source, options=options, record=record)

        # Build the training step: XLA compiles it in a thread while the state and the first batches are prepared.
        num_steps = settings.num_steps(len(source))
        train_step = build_train_step(settings, mesh, model=settings.model_for(tokenizer), num_samples=len(source))
        order = prepare_order(workdir / ORDER_FILE, source, settings)
        loader = create_loader(settings, source, tokenizer, order=order)
        schedule = create_schedule(settings.optimizer, num_steps)
        best = create_best(settings, workdir)
        rollbacks = read_rollbacks(workdir)
        warn_of_repeated_samples(settings, loader.sampler.lengths)
        log_size(settings, mesh, train_step, tokenizer=tokenizer, num_samples=len(source))
        checkpoints = Checkpoints(
            workdir / "checkpoints", keep=settings.keep_checkpoints, keep_every=settings.keep_every, best=best
        )
        stack.callback(checkpoints.close)  # waits until the last one is written
        compilation_start = time.monotonic()
        compilation = compile_in_background(train_step, settings, mesh)

        # Restore the newest checkpoint, or initialise the state.
        state = restore(checkpoints, settings, train_step)
        start = step = int(state.step)

        # Open the logs.
        logged = parse_json_lines(workdir / METRICS_FILE).rows  # the writer reports damaged ones
        spent = max((line.get("run_seconds", 0.0) for line in logged), default=0.0)
        throughput = Throughput(settings, mesh.devices.flatten(), spent=spent)
        bad_records = open_bad_records(workdir, settings)
        writer = open_writer(workdir, settings, start_step=start)
        progress = ProgressBar(num_steps, description="step", start=start, line_interval=0.0)
        log = StepLog(
            schedule=schedule, throughput=throughput, bad_records=bad_records, progress=progress, writer=writer
        )
        count_equal_texts = create_equal_text_counter(mesh)
        evaluations = Evaluations(workdir, settings, evaluate, writer=writer)
        profile = Profile(workdir / "profile", settings.monitor.profile)
        watchdog = open_watchdog(workdir, settings)
        for opened in (writer, progress, watchdog, profile, evaluations):  # closed in reverse order
            if opened is not None:
                stack.callback(opened.close)

        # Open the batches, which are prepared ahead, and finish the evaluations that an earlier process has left.
        feed = stack.enter_context(ExitStack())  # closes the batches
        open_batches = functools.partial(
            open_batches_after,
            loader=loader,
            settings=settings,
            mesh=mesh,
            workdir=workdir,
            bad_records=bad_records,
        )
        batches = feed.enter_context(closing(open_batches(step)))
        take_step = compilation.result()
        with watchdog.paused():
            evaluations.resume(step, state.parameters)

        # Loop until the budget is spent or the scheduler preempts the run. A bad loss rolls the run back.
        first_step, stopwatch, rolled_back = step + 1, Stopwatch(), False
        metrics = None  # of the newest step, which may still be running; None right after the state was restored
        while step < num_steps:
            try:
                if preemption.is_due(step):
                    if metrics is not None:  # otherwise the state is on disk, or the initial one
                        check_metrics(metrics, step, settings.recovery)
                        checkpoints.save(state)
                    break
                batch = stopwatch.next(batches, while_busy=metrics)
                jax.block_until_ready(metrics)  # one step in flight at most: the next batch is prepared meanwhile
                check_metrics(metrics, step, settings.recovery)
                step += 1
                profile.before(step, metrics)
                state, metrics = take_step(state, batch)
                profile.after(step, metrics)
                if step == first_step:
                    jax.block_until_ready(metrics)
                    stopwatch.read(settings.batch_size)  # leaves the first step out of the rates
                    if not rolled_back:
                        seconds = time.monotonic() - compilation_start
                        logger.info(f"first step and compilation: {format_duration(seconds)}")
                    progress.restart(step)
                watchdog.beat()
                if step % settings.log_every == 0 or step == num_steps:
                    check_metrics(metrics, step, settings.recovery)
                    with stopwatch.paused():
                        counted = {"equal_texts_per_row": count_equal_texts(batch["tokens"])}
                    log.write(step, metrics | counted, rates=stopwatch.read(settings.batch_size))
                if step % settings.checkpoint_every == 0 or step == num_steps:
                    check_metrics(metrics, step, settings.recovery)
                    checkpoints.save(state)
                if settings.evaluate_every:
                    with stopwatch.paused(), watchdog.paused():
                        evaluations.after(step, state.parameters)
            except BadLossError as bad:
                feed.close()
                state = batch = metrics = None  # frees their memory for the restored state
                checkpoint = find_rollback_checkpoint(
                    bad, checkpoints.steps(), earlier=rollbacks, settings=settings.recovery
                )
                evaluations.rollback(checkpoint or 0)
                state = checkpoints.rollback(checkpoint, train_step.abstract_state) or initialize(settings, train_step)
                log_rollback(workdir, bad, step=checkpoint or 0, writer=writer)
                step = int(state.step)
                rollbacks.append(step)
                batches = feed.enter_context(closing(open_batches(step)))
                with watchdog.paused():
                    evaluations.resume(step, state.parameters)
                first_step, stopwatch, rolled_back = step + 1, Stopwatch(), True
        feed.close()

        # Finish the evaluations and report the best checkpoint; leaving the stack writes the last checkpoint to disk.
        preempted = step < num_steps
        if preempted:
            evaluations.abandon()
            logger.info(f"received SIGTERM at step {step} of {num_steps}; run the same command to resume there")
        else:
            with watchdog.paused():
                evaluations.finish()
            log_best(best, checkpoints.steps())
        return TrainResult(start, step, settings.batch_size, preempted)


def check_metrics(metrics: Metrics | None, step: int, settings: RecoverySettings) -> None:
    """Raise `BadLossError` for the metrics of a step, which are the same on all processes."""
    if metrics is not None:
        check_loss({name: float(metrics[name]) for name in WATCHED_METRICS}, step, settings)


def log_rollback(workdir: pathlib.Path, bad: BadLossError, *, step: int, writer: MetricsWriter | None) -> None:
    """Record a rollback to `step` in the workdir and drop the metrics of later steps."""
    if writer is not None:
        record_rollback(workdir, bad, step=step)
        writer.rollback(step)
    wait_for_all_processes(f"rolled back from {bad.step}")
    count = bad.step - step
    logger.warning(
        f"{bad.reason} at step {bad.step}; rolled back to step {step}, skipping the {count} "
        f"batch{'es' if count > 1 else ''} after it"
    )


def log_best(best: BestCheckpoints | None, steps: Sequence[int]) -> None:
    """Log which of the checkpoints at `steps` is the best."""
    found = best.best(steps) if best else None
    if found:
        step, value = found
        logger.info(f"best {best.metric}: {value:.4g} at step {step}; export it with --step={step}")

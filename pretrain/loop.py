"""The training loop of every job: restore the state of a run, and take steps until the budget is spent."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from data.pipeline.bad_records import BadRecordTracker
from foundation.files.json_lines import parse_json_lines
from foundation.progress import ProgressBar, format_duration
from pretrain.checkpointing.best import BestCheckpoints
from pretrain.checkpointing.manager import Checkpoints
from pretrain.config.training import RunSettings
from pretrain.distributed.preemption import Preemption
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
from pretrain.online_evaluation import Evaluate, Evaluations, Export
from pretrain.optim.optimizer import create_schedule
from pretrain.preparation import create_best, open_watchdog, open_writer, wait_for_all_processes
from pretrain.train_step import Batch, Metrics, TrainState, TrainStep, text_identities

logger = logging.getLogger(__name__)


class TrainResult(NamedTuple):
    """The steps taken by one call of `train`: from `start_step` to `step`, each of `batch_size` pairs.

    `preempted` is True if the scheduler stopped the run before it was complete; the next call resumes from `step`.
    """

    start_step: int
    step: int
    batch_size: int
    preempted: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """A run whose workdir is claimed, as the loop needs it.

    step: the training step; XLA compiles it for batches like `batch`, whose leaves describe shapes and shardings.
    initialize: returns the state before the first step.
    open_batches: returns an endless iterator over the batches after a step, prepared ahead, which is closed at the end.
    pair_flops: floating-point operations of a step per pair.
    export: writes the parameters of a step to a folder that `evaluate` reads.
    """

    workdir: pathlib.Path
    settings: RunSettings
    mesh: Mesh
    num_steps: int
    step: TrainStep
    batch: dict[str, jax.ShapeDtypeStruct]
    initialize: Callable[[], TrainState]
    open_batches: Callable[[int], Any]
    bad_records: BadRecordTracker
    pair_flops: int
    export: Export
    evaluate: Evaluate | None = None


def train(training: Training, preemption: Preemption) -> TrainResult:
    """Take the steps that are left of a run.

    Writes `checkpoints/`, `metrics.jsonl`, `tensorboard/` and `evaluations/` to the workdir. A checkpoint is saved
    within one step of a SIGTERM, and the function returns.
    """
    settings, workdir = training.settings, training.workdir
    with ExitStack() as stack:
        # Compile the training step in a thread while the state and the first batches are prepared.
        schedule = create_schedule(settings.optimizer, training.num_steps)
        best = create_best(settings, workdir)
        rollbacks = read_rollbacks(workdir)
        checkpoints = Checkpoints(
            workdir / "checkpoints", keep=settings.keep_checkpoints, keep_every=settings.keep_every, best=best
        )
        stack.callback(checkpoints.close)  # waits until the last one is written
        compilation_start = time.monotonic()
        compilation = compile_in_background(training.step, training.batch)

        # Restore the newest checkpoint, or initialise the state.
        state = restore(checkpoints, training)
        start = step = int(state.step)

        # Open the logs.
        logged = parse_json_lines(workdir / METRICS_FILE).rows  # the writer reports damaged ones
        spent = max((line.get("run_seconds", 0.0) for line in logged), default=0.0)
        devices = training.mesh.devices.flatten()
        throughput = Throughput(settings.monitor, devices, pair_flops=training.pair_flops, spent=spent)
        writer = open_writer(workdir, settings, start_step=start)
        progress = ProgressBar(training.num_steps, description="step", start=start, line_interval=0.0)
        log = StepLog(
            schedule=schedule, throughput=throughput, bad_records=training.bad_records, progress=progress, writer=writer
        )
        count_equal_texts = create_equal_text_counter(training.mesh)
        evaluations = Evaluations(workdir, settings, training.evaluate, export=training.export, writer=writer)
        profile = Profile(workdir / "profile", settings.monitor.profile)
        watchdog = open_watchdog(workdir, settings)
        for opened in (writer, progress, watchdog, profile, evaluations):  # closed in reverse order
            if opened is not None:
                stack.callback(opened.close)

        # Open the batches, which are prepared ahead, and finish the evaluations that an earlier process has left.
        feed = stack.enter_context(ExitStack())  # closes the batches
        batches = feed.enter_context(closing(training.open_batches(step)))
        take_step = compilation.result()
        with watchdog.paused():
            evaluations.resume(step, state.parameters)

        # Loop until the budget is spent or the scheduler preempts the run. A bad loss rolls the run back.
        first_step, stopwatch, rolled_back = step + 1, Stopwatch(), False
        metrics = None  # of the newest step, which may still be running; None right after the state was restored
        while step < training.num_steps:
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
                if step % settings.log_every == 0 or step == training.num_steps:
                    check_metrics(metrics, step, settings.recovery)
                    with stopwatch.paused():
                        counted = {"equal_texts_per_row": count_equal_texts(text_identities(batch))}
                    log.write(step, metrics | counted, rates=stopwatch.read(settings.batch_size))
                if step % settings.checkpoint_every == 0 or step == training.num_steps:
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
                state = checkpoints.rollback(checkpoint, training.step.abstract_state) or training.initialize()
                log_rollback(training.workdir, bad, step=checkpoint or 0, writer=writer)
                step = int(state.step)
                rollbacks.append(step)
                batches = feed.enter_context(closing(training.open_batches(step)))
                with watchdog.paused():
                    evaluations.resume(step, state.parameters)
                first_step, stopwatch, rolled_back = step + 1, Stopwatch(), True
        feed.close()

        # Finish the evaluations and report the best checkpoint; leaving the stack writes the last checkpoint to disk.
        preempted = step < training.num_steps
        if preempted:
            evaluations.abandon()
            logger.info(
                f"received SIGTERM at step {step} of {training.num_steps}; run the same command to resume there"
            )
        else:
            with watchdog.paused():
                evaluations.finish()
            log_best(best, checkpoints.steps())
        return TrainResult(start, step, settings.batch_size, preempted)


def compile_in_background(
    step: TrainStep, batch: dict[str, jax.ShapeDtypeStruct]
) -> concurrent.futures.Future[Callable[[TrainState, Batch], Any]]:
    """Compile the step in a thread; return the future of the compiled step."""
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="compilation")
    future = executor.submit(lambda: step.step.lower(step.abstract_state, batch).compile())
    executor.shutdown(wait=False)
    return future


def restore(checkpoints: Checkpoints, training: Training) -> TrainState:
    """Return the state of the newest checkpoint, or the initial state if there is none."""
    if checkpoints.latest_step() is None:
        return training.initialize()
    state = checkpoints.restore(training.step.abstract_state)
    logger.info(f"resuming at step {int(state.step)}")
    return state


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

"""The training loop: prepare, restore, then one step after another until the budget is spent."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data.pipeline.bad_records import BadRecordTracker
from data.pipeline.loader import BatchIterator
from data.sources.open import ConcatenatedSource
from foundation.progress import ProgressBar, format_duration
from models.text.tokenizer import Tokenizer, load_tokenizer
from models.towers import count_parameters
from pretrain.checkpointing.best import Best
from pretrain.checkpointing.manager import Checkpoints
from pretrain.checkpointing.run_lock import owned
from pretrain.checkpointing.warm_start import start_from_checkpoint
from pretrain.config.run import SETTINGS_FILE, PretrainSettings, claim_workdir, read_settings
from pretrain.distributed import sharding
from pretrain.distributed.preemption import Preemption
from pretrain.input_pipeline import ORDER_FILE, claim_data, create_examples, open_data, prepare_order, prepare_tokenizer
from pretrain.loss_rollback import WATCHED, BadLossError, check_loss, read_skipped, read_went_back_to, skip
from pretrain.monitoring.metric_writer import METRICS_FILE, MetricsWriter, read_metrics
from pretrain.monitoring.profiler import Profile
from pretrain.monitoring.throughput import Stopwatch, Throughput
from pretrain.monitoring.throughput import describe as describe_throughput
from pretrain.monitoring.wandb_writer import WandbRun
from pretrain.monitoring.watchdog import Watchdog
from pretrain.online_evaluation import Evaluate, Evaluations
from pretrain.optim.optimizer import create_schedule
from pretrain.train_step import Metrics, TrainState, abstract_batch, build_train_step

logger = logging.getLogger(__name__)

BAD_RECORDS_FILE = "bad_records.jsonl"


class Result(NamedTuple):
    """The steps that a call made: from `start_step` to `step`, of `batch_size` pairs each.

    `preempted` where it was told to end before the run was complete; the next call goes on at `step`.
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
) -> Result:
    """Trains what the `pretrain` section of a config describes, or continues the run that `workdir` holds.

    Writes `pretrain.json`, `data.json`, `tokenizer/`, `checkpoints/`, `metrics.jsonl`, `tensorboard/` and, where there
    are such, `bad_records.jsonl` and `skipped.jsonl` to `workdir`, which all hosts share. Every `evaluate_every` steps
    `evaluate` gets an export of the towers. At SIGTERM it saves within a step and returns.
    """
    workdir = pathlib.Path(workdir)
    settings = read_settings(config, workdir)
    mesh = sharding.create_mesh(settings.mesh.fsdp)
    kept = (workdir / "tokenizer").is_dir()
    model = settings.model(1 if kept else settings.max_vocab_size())
    build_train_step(settings, mesh, model=model)  # checks before the first trace
    if settings.evaluate_every and evaluate is None:
        raise ValueError(
            f"evaluate_every is {settings.evaluate_every}, and nothing was given that evaluates; set it to 0"
        )
    logger.info(f"data: {', '.join(settings.data.sources)}")
    source = open_data(settings, data_dir)
    with ExitStack() as stack:
        preemption = stack.enter_context(Preemption())
        if _is_first():
            stack.enter_context(owned(workdir))
        tokenizer = _claim(workdir, settings, source)
        session = Session(workdir, settings, mesh, source, tokenizer, preemption)
        return session.run(evaluate)


def _claim(workdir: pathlib.Path, settings: PretrainSettings, source: ConcatenatedSource) -> Tokenizer:
    """Makes `workdir` that of this run, or checks that it is, on the first host; returns the tokenizer on all."""
    tokenizer = None
    if _is_first():
        claim_workdir(workdir, settings)
        claim_data(workdir, settings, source)
        tokenizer = prepare_tokenizer(workdir / "tokenizer", source, settings)
        prepare_order(workdir / ORDER_FILE, source, settings)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir claimed")
    if not (workdir / SETTINGS_FILE).is_file():
        raise FileNotFoundError(
            f"process {jax.process_index()} does not see {workdir / SETTINGS_FILE}, which the first one has written; "
            "--workdir must be on a file system that all hosts share"
        )
    return tokenizer or load_tokenizer(workdir / "tokenizer", length=settings.text["length"])


class Session:
    """What one call does of a run: it restores the state, and trains until the budget is spent or it is told to end."""

    def __init__(
        self,
        workdir: pathlib.Path,
        settings: PretrainSettings,
        mesh: Mesh,
        source: ConcatenatedSource,
        tokenizer: Tokenizer,
        preemption: Preemption,
    ):
        self.workdir, self.settings, self.mesh, self.preemption = workdir, settings, mesh, preemption
        self.steps = settings.num_steps(len(source))
        self.training = build_train_step(settings, mesh, model=settings.model_for(tokenizer), num_samples=len(source))
        order = prepare_order(workdir / ORDER_FILE, source, settings)
        self.examples = create_examples(settings, source, tokenizer, order)
        self.schedule = create_schedule(settings.optimizer, self.steps)
        self.best = None
        if settings.keep_best is not None:
            path = workdir / METRICS_FILE
            self.best = Best(path, settings.keep_best, evaluate_every=settings.evaluate_every)
        self._gone_back_to = read_went_back_to(workdir)
        parameters = count_parameters(self.training.abstract_state.parameters)
        epochs = self.steps * settings.batch_size / len(source)
        logger.info(
            f"model: {parameters:,} parameters, {tokenizer.vocab_size:,} tokens; {len(source):,} samples, "
            f"{epochs:.3g} epochs; {mesh.size} device(s)"
            + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
        )

    def run(self, evaluate: Evaluate | None) -> Result:
        """Trains from the newest checkpoint on, or from the start where there is none."""
        settings, monitor = self.settings, self.settings.monitor
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints",
            keep=settings.keep_checkpoints,
            keep_every=settings.keep_every,
            best=self.best,
        )
        self.compiling_since = time.monotonic()
        self.compiled = _in_background(self._compile)
        state, start = self._restore()
        host = f"host-{jax.process_index()}"
        spent = max((line.get("run_seconds", 0.0) for line in read_metrics(self.workdir / METRICS_FILE)), default=0.0)
        self.throughput = Throughput(settings, self.mesh.devices.flatten(), spent=spent)
        self.bad_records = BadRecordTracker(
            max_share=settings.data.max_bad_share,
            window=settings.data.bad_window,
            path=self.workdir / (BAD_RECORDS_FILE if _is_first() else f"bad_records.{host}.jsonl"),
        )
        self.writer = None
        if _is_first():
            mirror = WandbRun(self.workdir, settings) if monitor.wandb else None
            self.writer = MetricsWriter(self.workdir, start_step=start, mirror=mirror)
        self.progress = ProgressBar(self.steps, description="step", start=start, line_interval=0.0)
        self.evaluations = Evaluations(self.workdir, settings, evaluate, writer=self.writer)
        self.profile = Profile(self.workdir / "profile", monitor.profile)
        self.watchdog = Watchdog(
            self.workdir / "stalls" / f"{host}.txt",
            seconds=monitor.stall_seconds,
            end=monitor.end_when_stalled,
        )
        preempted = False
        try:
            step = self._train(state)
            preempted = step < self.steps
            if not preempted:
                with self.watchdog.paused():
                    self.evaluations.finish()
            self._tell_end(step, preempted)
        finally:
            self._close(wait=not preempted)
        return Result(start, step, settings.batch_size, preempted)

    def _compile(self) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
        """Returns the compiled step; this needs no data and no state, and so is done beside their preparation."""
        batch = abstract_batch(self.settings, self.mesh)
        return self.training.step.lower(self.training.abstract_state, batch).compile()

    def _restore(self) -> tuple[TrainState, int]:
        if self.checkpoints.latest_step() is None:
            state = self._begin()
        else:
            state = self.checkpoints.restore(self.training.abstract_state)
            logger.info(f"resuming at step {int(state.step)}")
        return state, int(state.step)

    def _begin(self) -> TrainState:
        if self.settings.initial_checkpoint is None:
            return self.training.init()
        return start_from_checkpoint(self.settings, self.training)

    def _train(self, state: TrainState) -> int:
        """Returns the step at which training ended."""
        while True:
            try:
                return self._advance(state)
            except BadLossError as bad:
                del state  # its memory is needed
                state = self._go_back(bad)

    def _advance(self, state: TrainState) -> int:
        """Makes the steps that are left; returns the last, which is earlier than that of the run if it is preempted."""
        settings, start = self.settings, int(state.step)
        batches = self._batches(start)
        make_step = self.compiled.result()
        stopwatch = Stopwatch()
        metrics = None
        try:
            with stopwatch.paused():
                self.evaluations.resume(start, state.parameters)
            for step in range(start + 1, self.steps + 1):
                if self.preemption.is_due(step - 1):
                    return self._preempted(step - 1, state, metrics)
                batch = stopwatch.next(batches, while_busy=metrics)
                jax.block_until_ready(metrics)  # at most one step in flight: the next batch is made meanwhile
                self._check(step - 1, metrics)
                self.profile.before(step, metrics)
                state, metrics = make_step(state, batch)
                self.profile.after(step, metrics)
                if step == start + 1:
                    jax.block_until_ready(metrics)
                    stopwatch.read(settings.batch_size)
                    seconds = time.monotonic() - self.compiling_since
                    logger.info(f"first step, with compilation: {format_duration(seconds)}")
                    self.progress.restart(step)
                self.watchdog.beat()
                if step % settings.log_every == 0 or step == self.steps:
                    self._check(step, metrics)
                    self._log(step, metrics, stopwatch.read(settings.batch_size))
                if step % settings.checkpoint_every == 0 or step == self.steps:
                    self._check(step, metrics)
                    self.checkpoints.save(state)
                if settings.evaluate_every:
                    with stopwatch.paused(), self.watchdog.paused():
                        self.evaluations.after(step, state.parameters)
        finally:
            batches.close()
        return self.steps

    def _batches(self, start: int) -> BatchIterator:
        settings = self.settings
        sampler = dataclasses.replace(self.examples.sampler, skipped=read_skipped(self.workdir))
        return dataclasses.replace(self.examples, sampler=sampler).batches(
            start,
            rows=sharding.local_rows(settings.batch_size),
            threads=settings.data.threads,
            workers=settings.data.workers,
            bad_records=self.bad_records,
            place=lambda batch: sharding.place_batch(batch, self.mesh),
        )

    def _check(self, step: int, metrics: Metrics | None) -> None:
        """Raises `BadLossError` for the metrics of a step, which are the same on all hosts."""
        if metrics is not None:
            check_loss({name: float(metrics[name]) for name in WATCHED}, step, self.settings.recovery)

    def _log(self, step: int, metrics: Metrics, rates: Mapping[str, float]) -> None:
        values = {name: float(value) for name, value in metrics.items()} | dict(rates)
        values |= {"learning_rate": float(self.schedule(step - 1))}
        values |= {"replaced_records": float(self.bad_records.counts.total())}
        values |= self.throughput.read(values["pairs_per_second"])
        if self.writer is not None:
            self.writer.write(step, values)
            self.progress.show(step, describe(values))

    def _preempted(self, step: int, state: TrainState, metrics: Metrics | None) -> int:
        """Saves what there is; a state that was read from a checkpoint, or began here, is not saved again."""
        if metrics is not None:
            self._check(step, metrics)
            self.checkpoints.save(state)
        return step

    def _go_back(self, bad: BadLossError) -> TrainState:
        """Returns the state of the newest checkpoint that was not gone back to yet, and skips the batches since it."""
        recovery = self.settings.recovery
        if recovery.on_bad_loss == "stop":
            raise bad
        if len(self._gone_back_to) >= recovery.max_go_backs:  # also of earlier calls
            raise FloatingPointError(
                f"{bad.reason} at step {bad.step}, after going back {recovery.max_go_backs} times "
                "(recovery.max_go_backs); lower optimizer.learning_rate"
            ) from bad
        steps = [step for step in self.checkpoints.steps() if step not in self._gone_back_to and step < bad.step]
        checkpoint = max(steps, default=None)
        target = checkpoint or 0
        self._gone_back_to.append(target)
        self.evaluations.back_to(target)
        state = self.checkpoints.back_to(checkpoint, self.training.abstract_state) or self._begin()
        if self.writer is not None:
            skip(self.workdir, after_step=target, batches=bad.step - target, reason=f"{bad.reason} at step {bad.step}")
            self.writer.back_to(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"gone back from {bad.step}")
        logger.warning(
            f"{bad.reason} at step {bad.step}; going back to step {target} and on without the "
            f"{bad.step - target} batches since"
        )
        return state

    def _tell_end(self, step: int, preempted: bool) -> None:
        if preempted:
            logger.info(f"received SIGTERM at step {step} of {self.steps}; run the same command to resume there")
        found = self.best.best(self.checkpoints.steps()) if self.best else None
        if found and not preempted:
            value, best = found[1], found[0]
            logger.info(f"best {self.settings.keep_best}: {value:.4g} at step {best}; export it with --step={best}")

    def _close(self, *, wait: bool) -> None:
        """Ends everything; first of all what is being saved is on disk."""
        with ExitStack() as stack:
            for last in (self.writer, self.progress, self.watchdog, self.profile):
                if last is not None:
                    stack.callback(last.close)
            stack.callback(self.evaluations.close, wait=wait)
            stack.callback(self.checkpoints.close)


def _is_first() -> bool:
    return jax.process_index() == 0


def _in_background(work: Callable[[], Any]) -> concurrent.futures.Future:
    """Returns what a thread of its own comes to."""
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="compilation")
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return future


def describe(values: Mapping[str, float]) -> str:
    """Returns the metrics of a progress line."""
    shown = [f"loss {values['loss']:.3f}", f"scale {values['logit_scale']:.2f}"]
    if "context_temperature" in values:
        shown += [
            f"context scale {values['context_logit_scale']:.2f}",
            f"temperature {values['context_temperature']:.2g}",
            f"attended {values['effective_items']:.1f}",
        ]
    shown += describe_throughput(values)
    if values["replaced_records"]:
        shown.append(f"replaced {values['replaced_records']:.0f}")
    return "  ".join(shown)

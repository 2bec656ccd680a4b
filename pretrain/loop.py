"""The training loop: prepare, restore, then one step after another until the budget is spent."""

from __future__ import annotations

import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from data.bad_records import BadRecords
from models.checkpoint import describe_checkpoint
from models.layout import get_path
from models.towers import count_parameters
from pretrain import sharding
from pretrain.checkpoint import Checkpoints
from pretrain.evaluations import Evaluate, Evaluations
from pretrain.examples import claim_data, create_examples, open_data, prepare_tokenizer
from pretrain.metrics import MetricsWriter, Progress, format_duration
from pretrain.optimizer import create_schedule
from pretrain.settings import PretrainSettings, claim_workdir, read_settings
from pretrain.step import Training, TrainState, training_of

BAD_RECORDS_FILE = "bad_records.jsonl"


class Result(NamedTuple):
    """The steps that a call made: from `start_step` to `step`, of `batch_size` pairs each."""

    start_step: int
    step: int
    batch_size: int


def pretrain(
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    *,
    data_dir: str | os.PathLike,
    evaluate: Evaluate | None = None,
) -> Result:
    """Trains what the `pretrain` section of a config describes, or continues the run that `workdir` holds.

    Writes `pretrain.json`, `data.json`, `tokenizer/`, `checkpoints/`, `metrics.jsonl`, `tensorboard/` and, where there
    are such, `bad_records.jsonl` to `workdir`. Every `evaluate_every` steps `evaluate` gets an export of the towers.
    """
    workdir = pathlib.Path(workdir)
    settings = read_settings(config, workdir)
    mesh = sharding.create_mesh(settings.mesh.fsdp)
    kept = (workdir / "tokenizer").is_dir()
    model = settings.model(1 if kept else settings.max_vocab_size())
    training_of(settings, mesh, model=model)  # checks before the first trace
    if settings.evaluate_every and evaluate is None:
        raise ValueError(
            f"evaluate_every is {settings.evaluate_every}, and nothing was given that evaluates; set it to 0"
        )

    say(f"data: {', '.join(settings.data.sources)}")
    source = open_data(settings, data_dir)
    claim_workdir(workdir, settings)
    claim_data(workdir, settings, source)
    tokenizer = prepare_tokenizer(workdir / "tokenizer", source, settings)
    examples = create_examples(settings, source, tokenizer)
    steps = settings.num_steps(len(source))
    training = training_of(settings, mesh, model=settings.model_for(tokenizer), num_samples=len(source))
    parameters = count_parameters(training.abstract_state.parameters)
    say(
        f"model: {parameters:,} parameters, {tokenizer.vocab_size:,} tokens; "
        f"{len(source):,} samples, {steps * settings.batch_size / len(source):.3g} epochs; {mesh.size} device(s)"
    )

    checkpoints = Checkpoints(workdir / "checkpoints", keep=settings.keep_checkpoints)
    if checkpoints.latest_step() is None and settings.initial_checkpoint is None:
        state = training.init()
    elif checkpoints.latest_step() is None:
        state = start_from_checkpoint(settings, training)
    else:
        state = checkpoints.restore(training.abstract_state)
        say(f"continuing at step {int(state.step)}")
    start = int(state.step)

    schedule = create_schedule(settings.optimizer, steps)
    bad_records = BadRecords(
        max_share=settings.data.max_bad_share, window=settings.data.bad_window, path=workdir / BAD_RECORDS_FILE, say=say
    )
    batches = examples.batches(
        start,
        rows=sharding.local_rows(settings.batch_size),
        threads=settings.data.threads,
        workers=settings.data.workers,
        bad_records=bad_records,
        place=lambda batch: sharding.place_batch(batch, mesh),
    )
    writer = MetricsWriter(workdir, start_step=start)
    progress = Progress(steps, start=start)
    evaluations = Evaluations(workdir, settings, evaluate, writer=writer, say=say)
    stopwatch = Stopwatch()
    metrics = None
    try:
        with stopwatch.paused():
            evaluations.resume(start, state.parameters)
        for step in range(start + 1, steps + 1):
            batch = stopwatch.next(batches, while_busy=metrics)
            jax.block_until_ready(metrics)  # at most one step in flight: the next batch is made meanwhile
            state, metrics = training.step(state, batch)
            if step == start + 1:
                jax.block_until_ready(metrics)
                say(f"first step, with compilation: {format_duration(stopwatch.read(settings.batch_size)['seconds'])}")
            if step % settings.log_every == 0 or step == steps:
                values = {name: float(value) for name, value in metrics.items()}
                values |= stopwatch.read(settings.batch_size) | {"learning_rate": float(schedule(step - 1))}
                values["replaced_records"] = float(bad_records.counts.total())
                check_finite(values, step)
                writer.write(step, values)
                progress.show(step, describe(values))
            if step % settings.checkpoint_every == 0 or step == steps:
                checkpoints.save(state)
            with stopwatch.paused():
                evaluations.after(step, state.parameters)
        evaluations.finish()
    finally:
        batches.close()
        evaluations.close()
        progress.close()
        writer.close()
        checkpoints.close()
    return Result(start, steps, settings.batch_size)


def start_from_checkpoint(settings: PretrainSettings, training: Training) -> TrainState:
    """Returns the state of a run that continues a checkpoint, each array read straight to where it lives."""
    found = describe_checkpoint(settings.initial_checkpoint, image_size=settings.vision.image_size, say=say)
    places = training.abstract_state.parameters["model"]

    def place(path: str, array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, get_path(places, path).sharding, array.__getitem__)

    state = training.start(found.read(place=place))
    scalars = ", ".join(f"{name} {getattr(settings.objective, name):.4g}" for name in ("logit_scale", "logit_bias"))
    say(f"starting from {settings.initial_checkpoint}: {scalars}")
    theirs = found.scalars()
    theirs = {"logit_scale": math.exp(theirs["logit_scale"])} | (
        {"logit_bias": theirs["logit_bias"]} if found.has_logit_bias else {}
    )
    for name, value in theirs.items():
        if not math.isclose(value, getattr(settings.objective, name), rel_tol=1e-6):
            say(f"note: the checkpoint's {name} is {value:.4g}; the config's objective.{name} is taken")
    return state


def check_finite(values: Mapping[str, float], step: int) -> None:
    """Raises `FloatingPointError` where a metric is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {step}; lower optimizer.learning_rate, then run the same command again: "
                "it continues at the last checkpoint"
            )


def describe(values: Mapping[str, float]) -> str:
    """Returns the metrics of a progress line."""
    shown = [f"loss {values['loss']:.3f}", f"scale {values['logit_scale']:.2f}"]
    if "context_temperature" in values:
        shown += [
            f"context scale {values['context_logit_scale']:.2f}",
            f"temperature {values['context_temperature']:.2g}",
            f"attended {values['effective_items']:.1f}",
        ]
    shown += [f"{values['pairs_per_second']:.0f} pairs/s", f"waiting {values['data_wait_share']:.0%}"]
    if values["replaced_records"]:
        shown.append(f"replaced {values['replaced_records']:.0f}")
    return "  ".join(shown)


def say(text: str) -> None:
    """Prints one line of what the run is doing, once for all hosts."""
    if jax.process_index() == 0:
        print(text, flush=True)


class Stopwatch:
    """Time, steps and waiting for data since the last reading."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._began, self._waited, self._steps = time.monotonic(), 0.0, 0

    def next(self, batches: Iterator[Any], *, while_busy: Any) -> Any:
        """Returns the next batch; a wait for it counts where the step that makes `while_busy` was over before it."""
        began = time.monotonic()
        batch = next(batches)
        if all(array.is_ready() for array in jax.tree.leaves(while_busy)):
            self._waited += time.monotonic() - began
        self._steps += 1
        return batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time of what is done within."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def read(self, batch_size: int) -> dict[str, float]:
        """Returns the rates since the last reading and starts anew."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        rates = {
            "seconds": seconds,
            "pairs_per_second": self._steps * batch_size / seconds,
            "data_wait_share": self._waited / seconds,
        }
        self._reset()
        return rates

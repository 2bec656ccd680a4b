"""The training loop: prepare, restore, then one step after another until the budget is spent."""

from __future__ import annotations

import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from data.batches import TrainingExamples
from data.plan import Plan
from data.records import Source
from data.sources import open_sources
from models.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from models.towers import count_parameters
from pretrain import sharding
from pretrain.checkpoint import Checkpoints
from pretrain.metrics import MetricsWriter, Progress, format_duration
from pretrain.optimizer import create_schedule
from pretrain.settings import PretrainSettings, claim_workdir, read_settings
from pretrain.step import training_of


class Result(NamedTuple):
    """The steps that a call made: from `start_step` to `step`, of `batch_size` pairs each."""

    start_step: int
    step: int
    batch_size: int


def pretrain(config: Mapping[str, Any], workdir: str | os.PathLike, *, data_dir: str | os.PathLike) -> Result:
    """Trains what the `pretrain` section of a config describes, or continues the run that `workdir` holds.

    Writes `pretrain.json`, `tokenizer/`, `checkpoints/`, `metrics.jsonl` and `tensorboard/` to `workdir`.
    """
    workdir = pathlib.Path(workdir)
    settings = read_settings(config)
    mesh = sharding.create_mesh(settings.mesh.fsdp)
    training_of(settings, mesh, vocab_size=settings.tokenizer.vocab_size)  # checks what can be before the first trace
    claim_workdir(workdir, settings)

    say(f"data: {', '.join(settings.data.sources)}")
    source = open_sources(settings.data.sources, data_dir)
    tokenizer = prepare_tokenizer(workdir / "tokenizer", source, settings)
    examples = TrainingExamples(
        source=source,
        plan=Plan(num_samples=len(source), batch_size=settings.batch_size, seed=settings.seed),
        image_size=settings.vision.image_size,
        num_patches=settings.vision.num_patches,
        augmentation=settings.augmentation,
        tokenize=tokenizer.encode,
        caption=settings.data.caption,
    )
    training = training_of(settings, mesh, vocab_size=tokenizer.vocab_size)
    parameters = count_parameters(training.abstract_state.parameters)
    say(
        f"model: {parameters:,} parameters, {tokenizer.vocab_size:,} tokens; "
        f"{len(source):,} samples; {mesh.size} device(s)"
    )

    checkpoints = Checkpoints(workdir / "checkpoints", keep=settings.keep_checkpoints)
    if checkpoints.latest_step() is None:
        state = training.init()
    else:
        state = checkpoints.restore(training.abstract_state)
        say(f"continuing at step {int(state.step)}")
    start = int(state.step)

    schedule = create_schedule(settings.optimizer, settings.steps)
    batches = examples.batches(start, rows=sharding.local_rows(settings.batch_size), threads=settings.data.threads)
    writer = MetricsWriter(workdir, start_step=start)
    progress = Progress(settings.steps, start=start)
    stopwatch = Stopwatch()
    metrics = None
    try:
        for step in range(start + 1, settings.steps + 1):
            batch = stopwatch.next(batches)
            jax.block_until_ready(metrics)  # at most one step in flight: the next batch is made meanwhile
            state, metrics = training.step(state, sharding.place_batch(batch, mesh))
            if step == start + 1:
                jax.block_until_ready(metrics)
                say(f"first step, with compilation: {format_duration(stopwatch.read(settings.batch_size)['seconds'])}")
            if step % settings.log_every == 0 or step == settings.steps:
                values = {name: float(value) for name, value in metrics.items()}
                values |= stopwatch.read(settings.batch_size) | {"learning_rate": float(schedule(step - 1))}
                check_finite(values, step)
                writer.write(step, values)
                progress.show(step, describe(values))
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                checkpoints.save(state)
    finally:
        progress.close()
        writer.close()
        checkpoints.close()
    return Result(start, settings.steps, settings.batch_size)


def prepare_tokenizer(folder: pathlib.Path, source: Source, settings: PretrainSettings) -> Tokenizer:
    """Returns the run's tokenizer: the one in `folder`, or one trained on the captions of `source` and kept there."""
    length = settings.text["length"]
    if not folder.is_dir():
        captions = (text for index in range(len(source)) for text in source[index].texts)
        tokenizer = train_tokenizer(captions, vocab_size=settings.tokenizer.vocab_size, length=length)
        partial = folder.with_suffix(".partial")
        tokenizer.save(partial)
        os.replace(partial, folder)
    return load_tokenizer(folder, length=length)


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
    return "  ".join([*shown, f"{values['pairs_per_second']:.0f} pairs/s"])


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

    def next(self, batches: Iterator[Any]) -> Any:
        """Returns the next batch; the wait for it counts."""
        began = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - began
        self._steps += 1
        return batch

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

"""Alignment of stored features: prepare a run, and train it with the loop of `pretrain`."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data.features.open import Features
from models.config import ModelSettings
from models.text.tokenizer import load_tokenizer
from pretrain.align.batches import FeatureLoader, abstract_feature_batch
from pretrain.align.config import SETTINGS_FILE, AlignSettings, load_settings, read_settings
from pretrain.align.data import AlignData, create_feature_loader, open_align_data
from pretrain.align.encoders import describe_encoders, write_encoders
from pretrain.align.export import export_aligned_parameters
from pretrain.checkpointing.manager import check_folder_name
from pretrain.config.resume import ResumeOptions
from pretrain.config.text_tower import max_vocab_size, text_settings, text_settings_for
from pretrain.data_identity import compare_hashed_data
from pretrain.distributed import sharding
from pretrain.input_pipeline import create_tokenizer, save_tokenizer
from pretrain.loop import Training, TrainResult, train
from pretrain.loss_rollback import read_skipped
from pretrain.monitoring.throughput import count_flops
from pretrain.online_evaluation import Evaluate
from pretrain.preparation import check_settings, claim, hold, log_size, open_bad_records
from pretrain.train_step import TrainState, TrainStep, build_train_step

_UNCHANGED = ResumeOptions()


def align(
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    *,
    data_dir: str | os.PathLike,
    evaluate: Evaluate | None = None,
    options: ResumeOptions = _UNCHANGED,
    record: Callable[[str], None] = lambda change: None,
) -> TrainResult:
    """Train the run that the `align` section of a config describes, or resume the run in `workdir`.

    Writes `align.json`, `data.json`, `encoders.json`, for captions `tokenizer/`, and what `pretrain.loop.train` writes.
    The other arguments are those of `pretrain.train.pretrain`.
    """
    workdir = pathlib.Path(workdir)
    check_folder_name(workdir)
    settings = read_settings(config)
    mesh = sharding.create_mesh(settings.mesh.fsdp)
    check_settings(settings, evaluate=evaluate)
    data = open_align_data(settings, data_dir)
    check_model(settings, mesh, data, workdir=workdir)
    encoders = describe_encoders(settings, data)

    with hold(workdir) as preemption:

        def prepare() -> None:
            write_encoders(workdir, encoders)
            if settings.captions and not (workdir / "tokenizer").is_dir():
                tokenizer = create_tokenizer(settings.tokenizer, settings.text_length, captions=data.texts.texts)
                save_tokenizer(tokenizer, workdir / "tokenizer")

        claim(
            workdir / SETTINGS_FILE,
            settings,
            load=load_settings,
            num_samples=len(data.pairs),
            compare_data=functools.partial(compare_hashed_data, workdir, data.sources),
            options=options,
            record=record,
            prepare=prepare,
        )
        tokenizer = load_tokenizer(workdir / "tokenizer", length=settings.text_length) if settings.captions else None
        text = data.texts.dim if tokenizer is None else text_settings_for(settings.text, tokenizer)
        model = settings.model(data.images.dim, text)
        step = build_step(settings, mesh, model, data)
        loader = create_feature_loader(data, settings, tokenizer)
        vocab_size = None if tokenizer is None else tokenizer.vocab_size
        log_size(settings, mesh, step, vocab_size=vocab_size, num_samples=len(data.pairs))
        training = Training(
            workdir=workdir,
            settings=settings,
            mesh=mesh,
            num_steps=settings.num_steps(len(data.pairs)),
            step=step,
            batch=abstract_feature_batch(model, settings.batch_size, mesh),
            initialize=functools.partial(initialize, step, data),
            open_batches=functools.partial(open_batches_after, loader=loader, workdir=workdir, mesh=mesh),
            bad_records=open_bad_records(workdir, 1.0, window=1),  # features have none
            pair_flops=sum(count_flops(settings, model)),
            export=functools.partial(export_aligned_parameters, workdir),
            evaluate=evaluate,
        )
        return train(training, preemption)


def check_model(settings: AlignSettings, mesh: Mesh, data: AlignData, *, workdir: pathlib.Path) -> None:
    """Raise `ValueError` for heads, a batch or rules that do not fit together; nothing is written."""
    if settings.batch_size > len(data.pairs):
        raise ValueError(
            f"batch_size is {settings.batch_size:,}, but there are {len(data.pairs):,} images with texts. Reduce it: a "
            "batch would contain images more than once, as if they did not match."
        )
    text: Any = data.texts.dim if isinstance(data.texts, Features) else None
    if text is None:
        has_tokenizer = (workdir / "tokenizer").is_dir()
        text = text_settings(settings.text, 1 if has_tokenizer else max_vocab_size(settings.text, settings.tokenizer))
    build_step(settings, mesh, settings.model(data.images.dim, text), data)


def build_step(settings: AlignSettings, mesh: Mesh, model: ModelSettings, data: AlignData) -> TrainStep:
    """Return the training step; statistics of features are not trained."""
    return build_train_step(settings.with_fixed_statistics(model), mesh, model=model, num_samples=len(data.pairs))


def initialize(step: TrainStep, data: AlignData) -> TrainState:
    """Return the initial state: heads that standardise have the statistics of the training features."""
    state = step.init()
    model = dict(state.parameters["model"])
    for side, statistics in data.statistics.items():
        if "mean" in model[side]:
            values = {"mean": statistics.mean, "deviation": statistics.deviation}
            model[side] = dict(model[side]) | {name: _like(model[side][name], each) for name, each in values.items()}
    return state._replace(parameters=state.parameters | {"model": model})


def _like(leaf: jax.Array, values: np.ndarray) -> jax.Array:
    """Return values in the dtype of an array, where that array is."""
    array = values.astype(leaf.dtype)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, array.__getitem__)


def open_batches_after(step: int, *, loader: FeatureLoader, workdir: pathlib.Path, mesh: Mesh) -> Iterator[Any]:
    """Return the batches that follow `step` on the devices, without those that rollbacks have skipped."""
    sampler = dataclasses.replace(loader.sampler, skipped=read_skipped(workdir))
    return dataclasses.replace(loader, sampler=sampler).batches(
        step,
        rows=sharding.local_rows(sampler.batch_size),
        place=functools.partial(sharding.place_batch, mesh=mesh),
    )

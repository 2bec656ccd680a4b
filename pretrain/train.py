"""Pretraining of both towers: prepare a run, and train it."""

from __future__ import annotations

import functools
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from models.text.tokenizer import load_tokenizer
from pretrain.checkpointing.export import export_parameters
from pretrain.checkpointing.manager import check_folder_name
from pretrain.config.resume import ResumeOptions
from pretrain.config.run import SETTINGS_FILE, load_settings, read_settings
from pretrain.data_identity import compare_data
from pretrain.distributed import sharding
from pretrain.input_pipeline import (
    ORDER_FILE,
    check_captions,
    create_loader,
    open_batches_after,
    open_data,
    prepare_order,
    prepare_tokenizer,
    warn_of_repeated_samples,
)
from pretrain.loop import Training, TrainResult, train
from pretrain.monitoring.throughput import count_pair_flops
from pretrain.online_evaluation import Evaluate
from pretrain.preparation import (
    check_model,
    check_settings,
    claim,
    hold,
    initialize,
    log_size,
    open_bad_records,
)
from pretrain.train_step import abstract_batch, build_train_step

logger = logging.getLogger(__name__)

_UNCHANGED = ResumeOptions()


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
    check_model(settings, mesh, workdir=workdir)
    check_settings(settings, evaluate=evaluate)

    # Open the data.
    logger.info(f"data: {', '.join(settings.data.sources)}")
    source = open_data(settings, data_dir)
    check_captions(source, settings.data.sources)
    settings.check_schedules(len(source))

    # Claim the workdir: one run at a time, with the settings and the data that it started with.
    with hold(workdir) as preemption:

        def prepare() -> None:
            prepare_tokenizer(workdir / "tokenizer", source, settings)
            prepare_order(workdir / ORDER_FILE, source, settings)

        claim(
            workdir / SETTINGS_FILE,
            settings,
            load=load_settings,
            num_samples=len(source),
            compare_data=functools.partial(
                compare_data, workdir, settings.data.sources, source.sources, moved=options.data_moved
            ),
            options=options,
            record=record,
            prepare=prepare,
        )
        tokenizer = load_tokenizer(workdir / "tokenizer", length=settings.text["length"])

        # Build the training step and the batches.
        step = build_train_step(settings, mesh, model=settings.model_for(tokenizer), num_samples=len(source))
        order = prepare_order(workdir / ORDER_FILE, source, settings)
        loader = create_loader(settings, source, tokenizer, order=order)
        bad_records = open_bad_records(workdir, settings.data.max_bad_share, window=settings.data.bad_window)
        warn_of_repeated_samples(settings, loader.sampler.lengths)
        log_size(settings, mesh, step, vocab_size=tokenizer.vocab_size, num_samples=len(source))
        training = Training(
            workdir=workdir,
            settings=settings,
            mesh=mesh,
            num_steps=settings.num_steps(len(source)),
            step=step,
            batch=abstract_batch(settings, mesh),
            initialize=functools.partial(initialize, settings, step),
            open_batches=functools.partial(
                open_batches_after,
                loader=loader,
                settings=settings,
                mesh=mesh,
                workdir=workdir,
                bad_records=bad_records,
            ),
            bad_records=bad_records,
            pair_flops=sum(count_pair_flops(settings)),
            export=functools.partial(export_parameters, workdir),
            evaluate=evaluate,
        )
        return train(training, preemption)

"""Inspection of the batches of a run: images and captions as the model gets them, and unusable records."""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.pipeline.loader import FAILURES, BatchLoader
from data.sources.base import Source
from foundation.files.atomic import atomic_file, write_text
from foundation.progress import track
from models.text.tokenizer import Tokenizer
from pretrain.config.run import PretrainSettings, read_settings
from pretrain.input_pipeline import ORDER_FILE, create_loader, open_data, prepare_order, prepare_tokenizer
from pretrain.tools.caption_noise import LEAST_PAIRS
from pretrain.tools.context_advice import describe, estimate, too_few
from pretrain.tools.inspection import BadRecordDetail, InspectedRow, Inspection
from pretrain.tools.inspection_page import draw_sheet, render_page
from pretrain.tools.pair_sample import ENCODER, sample_captions

logger = logging.getLogger(__name__)


def inspect(
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    *,
    data_dir: str | os.PathLike,
    step: int,
    steps: int,
    shown: int,
    pairs: int = 0,
) -> pathlib.Path:
    """Read batches `step` … `step + steps − 1` of the run that a config describes, and return the page written.

    Batch s is the one that a run logs as step s + 1. Writes `inspect/step-NNNNNNNN.html` and `.png` to `workdir` with
    up to `shown` rows of batch `step`. Up to `pairs` random pairs give an estimate of the caption noise and of whether
    context is likely to pay; 0 leaves it out. If `workdir` contains the run, its tokenizer is used. Raises `ValueError`
    for numbers that are too small, and the errors of opening the data.
    """
    for name, value, least in (("step", step, 0), ("steps", steps, 1), ("rows", shown, 1)):
        if value < least:
            raise ValueError(f"--{name} is {value}; it must be at least {least}")
    workdir = pathlib.Path(workdir)
    settings = read_settings(config, workdir)
    source = open_data(settings, data_dir)
    with tempfile.TemporaryDirectory() as temporary:
        has_run = (workdir / "pretrain.json").is_file() and (workdir / "tokenizer").is_dir()
        folder = workdir if has_run else pathlib.Path(temporary)
        tokenizer = prepare_tokenizer(folder / "tokenizer", source, settings)
        order = prepare_order(folder / ORDER_FILE, source, settings)
    loader = create_loader(settings, source, tokenizer, order=order)
    inspection = read_batches(loader, tokenizer, settings, step=step, steps=steps, shown=shown)
    facts = summarize(settings, loader, inspection, step=step, steps=steps)
    for line in facts:
        logger.info(line)
    advice = advise(settings, source, pairs=pairs) if pairs else []
    for line in advice:
        logger.info(line)
    page = workdir / "inspect" / f"step-{step:08d}.html"
    with atomic_file(page.with_suffix(".png")) as temporary_file:
        draw_sheet(inspection.rows).save(temporary_file)
    dropped = loader.augmentation.keep_patches < 1
    max_tokens = settings.text["length"]
    text = render_page(inspection, facts, advice, step=step, max_tokens=max_tokens, dropped=dropped)
    write_text(page, text)
    return page


def advise(settings: PretrainSettings, source: Source, *, pairs: int) -> list[str]:
    """Return the advice on the context objective for a data set, as lines of text."""
    if min(len(source), pairs) < LEAST_PAIRS:
        return [too_few(min(len(source), pairs))]
    if not ENCODER.is_dir():
        return [f"context objective: no estimate, because {ENCODER} is missing. Copy it from the project's repository."]
    sample = sample_captions(source, settings.data, pairs=pairs, seed=settings.seed)
    if len(sample.images) < LEAST_PAIRS:
        return [too_few(len(sample.images))]
    return describe(estimate(sample), batch_size=settings.batch_size, from_scratch=settings.initial_checkpoint is None)


def read_batches(
    loader: BatchLoader, tokenizer: Tokenizer, settings: PretrainSettings, *, step: int, steps: int, shown: int
) -> Inspection:
    """Return what the batches of the steps contain, prepared as the run prepares them."""
    inspection, sampler = Inspection(), loader.sampler
    with concurrent.futures.ThreadPoolExecutor(settings.data.threads) as threads:
        for current in track(range(step, step + steps), total=steps, description="reading batches", unit="batches"):
            batches = threads.map(functools.partial(_read_row, loader, current), range(sampler.batch_size))
            for row, batch in enumerate(batches):
                example = {name: array[0] for name, array in batch.items()}
                attempt = int(np.count_nonzero(example[FAILURES]))
                for failed in range(attempt):
                    _note_failure(inspection, loader, step=current, row=row, attempt=failed)
                sample = sampler.sample_id(current, row, attempt=attempt)
                tokens = _count_tokens(example["tokens"], tokenizer)
                inspection.lengths[tokens] += 1
                inspection.sources[loader.source.locate(sample)[0]] += 1
                if current == step and row < shown:
                    image = _whiten_dropped(example["images"], example.get("kept_patches"), settings.vision.patch_size)
                    caption = tokenizer.decode(example["tokens"])
                    inspection.rows.append(InspectedRow(loader.source.key(sample), image, caption, tokens))
    return inspection


def _read_row(loader: BatchLoader, step: int, row: int) -> dict[str, np.ndarray]:
    return loader.rows(step, range(row, row + 1))


def _note_failure(inspection: Inspection, loader: BatchLoader, *, step: int, row: int, attempt: int) -> None:
    key = loader.source.key(loader.sampler.sample_id(step, row, attempt=attempt))
    problem = None if key in inspection.bad else loader.failure(step, row, attempt=attempt)
    if problem:
        inspection.bad[key] = BadRecordDetail(problem.reason, problem.detail)
        inspection.reasons[problem.reason] += 1


def _count_tokens(tokens: np.ndarray, tokenizer: Tokenizer) -> int:
    """Return the number of tokens up to the first end token, or up to the padding."""
    ends = np.flatnonzero(tokens == tokenizer.end_id) if tokenizer.end_id is not None else ()
    if len(ends):
        return int(ends[0]) + 1
    return int(np.count_nonzero(tokens != tokenizer.pad_id))


def _whiten_dropped(image: np.ndarray, kept: np.ndarray | None, patch_size: int) -> np.ndarray:
    """Return the image with dropped patches mixed with white."""
    if kept is None:
        return image
    rows, columns = image.shape[0] // patch_size, image.shape[1] // patch_size
    seen = np.zeros(rows * columns, bool)
    seen[kept] = True
    mask = np.kron(seen.reshape(rows, columns), np.ones((patch_size, patch_size), bool))
    pale = image.copy()
    part = pale[: rows * patch_size, : columns * patch_size]
    part[~mask] = 255 - (255 - part[~mask]) // 4
    return pale


def summarize(
    settings: PretrainSettings, loader: BatchLoader, inspection: Inspection, *, step: int, steps: int
) -> list[str]:
    """Return the results as lines of text."""
    sampler, total = loader.sampler, inspection.lengths.total()
    epochs = step * sampler.batch_size / sampler.num_samples
    span = f"batch {step}" if steps == 1 else f"batches {step} to {step + steps - 1}"
    lines = [
        f"{span} of {sampler.batch_size:,} pairs; {sampler.num_samples:,} samples, {epochs:.2f} epochs before them"
    ]
    for number, (name, length) in enumerate(zip(settings.data.sources, sampler.lengths, strict=True)):
        count = inspection.sources[number]
        lines.append(f"  {name}: {count:,} examples ({count / total:.1%}), {length:,} samples")
    max_tokens = settings.text["length"]
    full = inspection.lengths[max_tokens]
    lengths = sorted(inspection.lengths.elements())
    lines.append(
        f"  tokens per caption: median {lengths[total // 2]}, maximum {lengths[-1]}; {full / total:.1%} use all "
        f"{max_tokens}"
    )
    if not inspection.bad:
        return [*lines, "  all records are usable"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in inspection.reasons.most_common())
    return [*lines, f"  {len(inspection.bad)} unusable records were replaced: {reasons}"]

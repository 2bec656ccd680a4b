"""The input pipeline of a run: its sources, tokenizer, sample order and batch loader, the same in every job."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from data.pipeline.bad_records import BadRecordTracker
from data.pipeline.caption_groups import group_by_texts
from data.pipeline.loader import BatchIterator, BatchLoader
from data.pipeline.sampler import BatchSampler
from data.sources.base import BadRecord, Source
from data.sources.image_folders import ClassFolders
from data.sources.open import ConcatenatedSource, open_sources
from foundation.files.array_files import load_array, save_array
from foundation.progress import track
from models.checkpoints.describe import describe_checkpoint
from models.text.tokenizer import Tokenizer, load_tokenizer, open_tokenizer, train_tokenizer
from pretrain.config.data import TokenizerSettings
from pretrain.config.initialization import CHECKPOINT_TOKENIZER
from pretrain.config.run import PretrainSettings
from pretrain.distributed import sharding
from pretrain.loss_rollback import read_skipped

logger = logging.getLogger(__name__)

ORDER_FILE = "groups.npy"
_CAPTION_SAMPLES = 200_000
_CHECKED_CAPTIONS = 64
_READERS = 16  # threads


def open_data(settings: PretrainSettings, data_dir: str | os.PathLike) -> ConcatenatedSource:
    """Open the sources of a run; raises like `data.sources.open.open_source`."""
    data = settings.data
    return open_sources(data.sources, data_dir, text_keys=data.text_keys, image_keys=data.image_keys)


def check_captions(source: ConcatenatedSource, names: Sequence[str]) -> None:
    """Raise `ValueError` if all samples have the same caption, and log a warning if all that were looked at have it.

    Up to 64 evenly spaced samples are looked at. `names` are those of the sources.
    """
    if len(source) < 2:
        return
    count = min(len(source), _CHECKED_CAPTIONS)
    with concurrent.futures.ThreadPoolExecutor(_READERS) as threads:
        texts = threads.map(lambda number: _texts_of(source, number * len(source) // count), range(count))
        found = {" ".join(each) for each in texts if each}
    if len(found) != 1:
        return
    problem = f"{', '.join(names)}: all images have the same caption {found.pop()!r:.80}"
    one_folder = all(isinstance(each, ClassFolders) and len(each.class_names) == 1 for each in source.sources)
    if one_folder or len(source) <= _CHECKED_CAPTIONS:
        raise ValueError(
            f"{problem}, so a contrastive loss has nothing to learn. Give a folder with several class folders, or a "
            "table or shards with a caption for each image."
        )
    logger.warning(
        f"{problem} in {_CHECKED_CAPTIONS} of {len(source):,} samples. If that holds for the rest, a contrastive loss "
        "has nothing to learn."
    )


def create_loader(
    settings: PretrainSettings, source: ConcatenatedSource, tokenizer: Tokenizer, *, order: np.ndarray | None = None
) -> BatchLoader:
    """Return the loader of the run's batches; `order` is that of `prepare_order`."""
    sampler = BatchSampler(
        lengths=tuple(map(len, source.sources)),
        weights=settings.data.weights,
        batch_size=settings.batch_size,
        seed=settings.seed,
        group_size=settings.data.group_size,
        views=settings.data.views,
        order=order,
    )
    return BatchLoader(
        source=source,
        sampler=sampler,
        image_shape=settings.vision.image_shape,
        num_patches=settings.vision.num_patches,
        augmentation=settings.augmentation,
        tokenize=tokenizer,
        caption=settings.data.caption,
        max_pixels=settings.data.max_pixels,
    )


def prepare_tokenizer(folder: pathlib.Path, source: Source, settings: PretrainSettings) -> Tokenizer:
    """Return the run's tokenizer from `folder`; if it is not there yet, create it from the settings and save it there.

    A tokenizer that is to be trained is trained on the captions of `source`, or on those of 200,000 evenly spaced
    samples if there are more.
    """
    length = settings.text["length"]
    if not folder.is_dir():
        chosen = settings.tokenizer
        if chosen.name == CHECKPOINT_TOKENIZER:
            checkpoint = describe_checkpoint(settings.initial_checkpoint)
            save_tokenizer(checkpoint.open_tokenizer(canonicalize=chosen.canonicalize), folder)
        else:
            save_tokenizer(create_tokenizer(chosen, length, captions=read_captions(source)), folder)
    return load_tokenizer(folder, length=length)


def create_tokenizer(chosen: TokenizerSettings, length: int, *, captions: Iterable[str]) -> Tokenizer:
    """Return a tokenizer that is trained on captions, or the existing one that the settings name."""
    if chosen.trained_size:
        canonicalize = chosen.canonicalize or "siglip"
        return train_tokenizer(captions, length=length, vocab_size=chosen.trained_size, canonicalize=canonicalize)
    return open_tokenizer(chosen.name, length=length, canonicalize=chosen.canonicalize or "none")


def save_tokenizer(tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    """Save a tokenizer in `folder`, unless another process of the run has done so meanwhile."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        partial = pathlib.Path(temporary) / "new"
        tokenizer.save(partial)
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise


def prepare_order(path: pathlib.Path, source: Source, settings: PretrainSettings) -> np.ndarray | None:
    """Return the order of samples in which those of a group are neighbours; None if the settings use no groups.

    The order is read from `path`; if it is not there yet or damaged, it is computed from the captions and saved there.
    Raises `ValueError` for a file made for another number of samples.
    """
    if settings.data.group_size == 1:
        return None
    order = load_array(path)
    if order is None:
        texts = [" ".join(texts) for texts in _read_texts(source, len(source))]
        order = group_by_texts(texts, settings.data.group_size)
        save_array(path, order)
    if len(order) != len(source):
        raise ValueError(
            f"{path} was made for {len(order):,} samples, but the data has {len(source):,}. Remove the file."
        )
    return order


def read_captions(source: Source, limit: int = _CAPTION_SAMPLES) -> Iterator[str]:
    """Yield the captions of all samples, or of `limit` evenly spaced ones; bad records are skipped."""
    yield from itertools.chain.from_iterable(_read_texts(source, min(len(source), limit)))


def _read_texts(source: Source, count: int) -> Iterator[tuple[str, ...]]:
    """Yield the texts of `count` evenly spaced samples; a bad record has none."""
    indices = (number * len(source) // count for number in range(count))
    with concurrent.futures.ThreadPoolExecutor(_READERS) as threads:
        texts = threads.map(lambda index: _texts_of(source, index), indices)
        yield from track(texts, total=count, description="reading captions")


def _texts_of(source: Source, index: int) -> tuple[str, ...]:
    try:
        return source.texts(index)
    except BadRecord:
        return ()


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

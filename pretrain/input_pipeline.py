"""A run's data: the sources and settings of a config as the examples of each step, the same in every job."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from data.pipeline.caption_groups import group_by_texts
from data.pipeline.loader import BatchLoader
from data.pipeline.sampler import BatchSampler
from data.sources.base import BadRecord, Source
from data.sources.open import ConcatenatedSource, open_sources
from foundation.progress import track
from models.checkpoints.io import describe_checkpoint
from models.text.tokenizer import Tokenizer, load_tokenizer, open_tokenizer, train_tokenizer
from pretrain.config.initialization import CHECKPOINT_TOKENIZER
from pretrain.config.run import PretrainSettings

DATA_FILE, ORDER_FILE = "data.json", "groups.npy"
_CAPTION_SAMPLES = 200_000
_READERS = 16  # threads


def open_data(settings: PretrainSettings, data_dir: str | os.PathLike) -> ConcatenatedSource:
    """Opens the sources of a run; raises as `data.sources.open.open_source` does."""
    data = settings.data
    return open_sources(data.sources, data_dir, text_keys=data.text_keys, image_keys=data.image_keys)


def create_examples(
    settings: PretrainSettings, source: ConcatenatedSource, tokenizer: Tokenizer, order: np.ndarray | None = None
) -> BatchLoader:
    """Returns what makes the rows of the run's batches; `order` has samples of a group next to each other."""
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
    """Returns the run's tokenizer: the one in `folder`, or else the one that the settings name, and keeps it there.

    Where they ask for one to be trained, that is done on the captions of `source`, of a large one on those of 200,000
    samples that are spread over it.
    """
    chosen, length = settings.tokenizer, settings.text["length"]
    if not folder.is_dir():
        if chosen.name == CHECKPOINT_TOKENIZER:
            tokenizer = describe_checkpoint(settings.initial_checkpoint).open_tokenizer()
        elif chosen.trained_size:
            how = {"vocab_size": chosen.trained_size, "canonicalize": chosen.canonicalize or "siglip"}
            tokenizer = train_tokenizer(read_captions(source), length=length, **how)
        else:
            tokenizer = open_tokenizer(chosen.name, length=length, canonicalize=chosen.canonicalize or "none")
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            partial = pathlib.Path(temporary) / "new"
            tokenizer.save(partial)
            try:
                os.replace(partial, folder)
            except OSError:
                if not folder.is_dir():  # if it is, another process of this run was first, with the same one
                    raise
    return load_tokenizer(folder, length=length)


def prepare_order(path: pathlib.Path, source: Source, settings: PretrainSettings) -> np.ndarray | None:
    """Returns the order in which groups of similar samples follow each other, that in `path` or a new one, kept there.

    None where the settings ask for no groups.
    """
    if settings.data.group_size == 1:
        return None
    if not path.is_file():
        texts = [" ".join(found) for found in _read_texts(source, len(source))]
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            partial = pathlib.Path(temporary) / path.name
            np.save(partial, group_by_texts(texts, settings.data.group_size))
            os.replace(partial, path)
    order = np.load(path, allow_pickle=False)
    if len(order) != len(source):
        raise ValueError(f"{path} is for {len(order):,} samples, and there are {len(source):,}; remove it")
    return order


def read_captions(source: Source, limit: int = _CAPTION_SAMPLES) -> Iterator[str]:
    """Yields the captions of all samples, or of `limit` of them at equal distances; bad records have none."""
    yield from itertools.chain.from_iterable(_read_texts(source, min(len(source), limit)))


def _read_texts(source: Source, count: int) -> Iterator[tuple[str, ...]]:
    """Yields the texts of `count` samples at equal distances."""

    def texts(index: int) -> tuple[str, ...]:
        try:
            return source.texts(index)
        except BadRecord:
            return ()

    chosen = (number * len(source) // count for number in range(count))
    with concurrent.futures.ThreadPoolExecutor(_READERS) as threads:
        read = threads.map(texts, chosen)
        yield from track(read, total=count, description="reading captions")


def claim_data(workdir: pathlib.Path, settings: PretrainSettings, source: ConcatenatedSource) -> None:
    """Notes in `workdir/data.json` what the run's sources hold, or checks that they hold what they held before.

    Raises `ValueError` naming the first that has changed: other data would give other batches from here on.
    """
    path = workdir / DATA_FILE
    ours = [
        {"source": name, "samples": len(part), "fingerprint": part.fingerprint}
        for name, part in zip(settings.data.sources, source.sources, strict=True)
    ]
    if path.exists():
        for before, now in zip(json.loads(path.read_text(encoding="utf-8")), ours, strict=True):
            if before != now:
                raise ValueError(
                    f"{now['source']} had {before['samples']:,} samples (fingerprint {before['fingerprint']}) when "
                    f"this run began, and has {now['samples']:,} ({now['fingerprint']}) now; bring the data back, or "
                    "start another --workdir"
                )
        return
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(ours, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)

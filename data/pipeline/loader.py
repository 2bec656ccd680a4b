"""From a source and a sampler to prefetched batches of arrays."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.pipeline.augmentation import Augmentation, augment, choose_patches
from data.pipeline.bad_records import BadRecordTracker
from data.pipeline.image_ops import MAX_PIXELS, EncodedImage
from data.pipeline.sampler import BatchSampler, generator
from data.sources.base import BadRecord, Record, Source

CAPTIONS = ("first", "random", "all", "shuffled")
ATTEMPTS = 32  # records that are tried for one row
FAILURES = "failures"
_AHEAD = 2  # batches
_WATCH_SECONDS = 1.0
_FOR_EVER = 1 << 62  # numbers of parts


class _Draw(NamedTuple):
    """What a row is made of: a record, one of its captions, and the generator of what is random from here on."""

    record: Record
    caption: str
    rng: np.random.Generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchLoader:
    """Makes the rows of a batch: for each a random view of a picture and the token ids of a caption.

    `tokenize` maps captions to token ids `[captions, length]` int32; `num_patches` is the number of patches of an
    image. `caption` says which text is used: the `first`, a `random` one, or `all` of them joined by commas, in their
    order or `shuffled`. A picture of more than `max_pixels` is not decoded.

    Whatever the number of hosts, threads and processes, a row is the same. A record that cannot be used is replaced by
    another, which the sampler draws, from the same source where there are weights.
    """

    source: Source
    sampler: BatchSampler
    image_shape: tuple[int, int]
    num_patches: int
    augmentation: Augmentation
    tokenize: Callable[[Sequence[str]], np.ndarray]
    caption: str = "random"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.caption not in CAPTIONS:
            raise ValueError(f"unknown caption {self.caption!r}; known: {', '.join(CAPTIONS)}")

    def rows(self, step: int, rows: range) -> dict[str, np.ndarray]:
        """Returns those rows of batch `step`: `images` `[rows, *image_shape, 3]` uint8, `tokens` `[rows, length]`
        int32, and where some are dropped `kept_patches` `[rows, kept]` int32.

        `failures` `[rows, attempts]` uint8 has the code of the reason for which each attempt failed, 0 for the rest.
        Raises `ValueError` where all of a row failed.
        """
        images = np.empty((len(rows), *self.image_shape, 3), np.uint8)
        captions, kept = [""] * len(rows), [np.empty(0, np.int32)] * len(rows)
        failures = np.zeros((len(rows), ATTEMPTS), np.uint8)
        missing = list(range(len(rows)))
        for attempt in range(ATTEMPTS):
            drawn: dict[int, _Draw] = {}
            problems: dict[int, BadRecord] = {}
            # Stage by stage over many rows is faster than row by row: the code of a stage stays in the caches.
            for place in missing:
                try:
                    drawn[place] = self._draw(step, rows[place], attempt)
                except BadRecord as error:
                    problems[place] = error
            for place, draw in drawn.items():
                try:
                    images[place], kept[place] = self._view(draw)
                    captions[place] = draw.caption
                except BadRecord as error:
                    problems[place] = error
            for place, error in problems.items():
                failures[place, attempt] = error.code
            missing = sorted(problems)
            if not missing:
                patches = {"kept_patches": np.stack(kept)} if self.augmentation.keep_patches < 1 else {}
                return {"images": images, "tokens": self.tokenize(captions), **patches, FAILURES: failures}
        last = problems[missing[0]]
        raise ValueError(
            f"{ATTEMPTS} records in a row cannot be used, the last for this reason: {last}; repair the data"
        )

    def failure(self, step: int, row: int, *, attempt: int) -> BadRecord | None:
        """Returns why an attempt at a row fails; None where it does not."""
        try:
            self._view(self._draw(step, row, attempt))
        except BadRecord as error:
            return error
        return None

    def _draw(self, step: int, row: int, attempt: int) -> _Draw:
        record = self.source[self.sampler.sample_id(step, row, attempt=attempt)]
        rng = generator(self.sampler.seed, self.sampler.position(step), row)
        return _Draw(record, choose_caption(record, self.caption, rng), rng)

    def _view(self, draw: _Draw) -> tuple[np.ndarray, np.ndarray]:
        """Returns the picture, `[*image_shape, 3]`, and the patches of it that are kept, all or `[kept]`."""
        picture = EncodedImage(draw.record.image, draw.record.key, max_pixels=self.max_pixels)
        image = augment(picture, self.image_shape, self.augmentation, draw.rng)
        share = self.augmentation.keep_patches
        return image, choose_patches(self.num_patches, share, draw.rng) if share < 1 else np.empty(0, np.int32)

    def batches(
        self,
        start_step: int,
        *,
        rows: slice,
        threads: int = 2,
        workers: int = 0,
        bad_records: BadRecordTracker | None = None,
        place: Callable[[dict[str, np.ndarray]], Any] = lambda batch: batch,
    ) -> BatchIterator:
        """Returns the given rows of batch `start_step`, then of the next, without end; made ahead.

        `rows` are this host's rows of the global batch. Each of `threads` threads makes a part of them; with `workers`
        so many processes make whole batches in turn, each in so many threads. `bad_records` keeps account; `place` is
        called on every batch ahead of its turn, to put it on devices.
        """
        start, stop, _ = rows.indices(self.sampler.batch_size)
        return BatchIterator(self, start_step, range(start, stop), threads, workers, bad_records, place)


class BatchIterator:
    """An endless iterator over batches, to be closed: `close()` ends its threads and processes."""

    def __init__(
        self,
        examples: BatchLoader,
        start_step: int,
        rows: range,
        threads: int,
        workers: int,
        bad_records: BadRecordTracker | None,
        place: Callable[[dict[str, np.ndarray]], Any],
    ):
        import grain
        from grain.experimental import ThreadPrefetchIterDataset

        self._examples, self._rows, self._step = examples, rows, start_step
        self._bad_records, self._place = bad_records, place
        parts = 1 if workers else min(threads, len(rows))
        elements = grain.MapDataset.range(start_step * parts, _FOR_EVER).map(_Part(examples, rows, parts))
        made = elements.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=max(_AHEAD * parts, threads)))
        if workers:
            _let_grain_start_processes()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
            made = made.mp_prefetch(options, worker_init_fn=_Worker(os.getpid()))
        if parts > 1:
            made = made.batch(parts, batch_fn=_join)
        self._iterator = iter(ThreadPrefetchIterDataset(made.map(self._finish), prefetch_buffer_size=1))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def close(self) -> None:
        """Ends the threads and processes that make batches ahead."""
        self._iterator.close()

    def _finish(self, batch: dict[str, np.ndarray]) -> Any:
        """Counts the bad records of the next batch and places it; batches come here one by one, in their order."""
        failures, step = batch.pop(FAILURES), self._step
        self._step += 1
        if self._bad_records:
            sampler, source = self._examples.sampler, self._examples.source
            self._bad_records.count(
                failures,
                lambda row, attempt: source.key(sampler.sample_id(step, self._rows[row], attempt=attempt)),
                step=step,
            )
        return self._place(batch)


@dataclasses.dataclass(frozen=True)
class _Part:
    """Maps a number to one of the parts that this host's rows of each batch are cut into."""

    examples: BatchLoader
    rows: range
    parts: int

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        step, part = divmod(number, self.parts)
        first, last = (len(self.rows) * edge // self.parts for edge in (part, part + 1))
        return self.examples.rows(step, self.rows[first:last])


@dataclasses.dataclass(frozen=True)
class _Worker:
    """Prepares a worker process: it leaves interruptions to the process that trains, and ends when that one is gone."""

    parent: int

    def __call__(self, index: int, count: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)


def _join(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _let_grain_start_processes() -> None:
    """Grain hands absl's flags to its processes, and needs them parsed; here they stay at their defaults."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def choose_caption(record: Record, how: str, rng: np.random.Generator) -> str:
    """Returns the caption of a sample, by one of `CAPTIONS`; raises `BadRecord` where it has none."""
    texts = record.texts
    if not texts:
        raise BadRecord("no caption", record.key, "this sample has no text")
    if how == "first":
        return texts[0]
    if how == "random":
        return texts[rng.integers(len(texts))]
    order = range(len(texts)) if how == "all" else rng.permutation(len(texts))
    return ", ".join(texts[index] for index in order)

"""Load batches: from a source and a sampler to prefetched batches of arrays."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from data.pipeline.augmentation import Augmentation, augment, choose_patches
from data.pipeline.bad_records import BadRecordTracker
from data.pipeline.image_ops import MAX_PIXELS, EncodedImage
from data.pipeline.sampler import BatchSampler, generator
from data.pipeline.shared_object import SharedObject
from data.sources.base import BadRecord, Record, Source
from foundation.suggestions import unknown_name

Caption = Literal["first", "random", "all", "shuffled"]
CAPTIONS = get_args(Caption)
ATTEMPTS = 32  # records tried per row
FAILURES = "failures"
_PREFETCHED_BATCHES = 2
_PARENT_CHECK_SECONDS = 1.0
_ENDLESS = 1 << 62  # length of the stream of batch parts


class _RowInput(NamedTuple):
    """A drawn record, its chosen caption, and the random generator for the rest of the row."""

    record: Record
    caption: str
    rng: np.random.Generator


class _View(NamedTuple):
    """An augmented image `[*image_shape, 3]` and the indices of its kept patches `[kept]`, empty if all are kept."""

    image: np.ndarray
    kept_patches: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchLoader:
    """The rows of training batches: a random view of an image and the token ids of a caption.

    `tokenize` maps captions to token ids `[captions, length]` int32; `num_patches` is the number of patches per image.
    `caption` selects the text: the `first`, a `random` one, or `all` of them joined by commas, in order or `shuffled`.
    Images of more than `max_pixels` pixels are not decoded.

    A row is the same for any number of hosts, threads and processes. An unusable record is replaced by one that the
    sampler draws, from the same source if there are weights.
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
            raise ValueError(unknown_name("data.caption", self.caption, CAPTIONS))

    def rows(self, step: int, rows: range) -> dict[str, np.ndarray]:
        """Return rows of batch `step`: `images` `[rows, *image_shape, 3]` uint8, `tokens` `[rows, length]` int32 and,
        if patches are dropped, `kept_patches` `[rows, kept]` int32.

        `failures` `[rows, attempts]` uint8 holds the reason code of each failed attempt, and 0 elsewhere. Raises
        `ValueError` if every attempt for a row failed.
        """
        images = np.empty((len(rows), *self.image_shape, 3), np.uint8)
        captions, kept = [""] * len(rows), [np.empty(0, np.int32)] * len(rows)
        failures = np.zeros((len(rows), ATTEMPTS), np.uint8)
        pending = list(range(len(rows)))
        for attempt in range(ATTEMPTS):
            inputs: dict[int, _RowInput] = {}
            errors: dict[int, BadRecord] = {}
            # One stage for all rows, then the next, is faster than row by row: a stage's code stays in the CPU caches.
            for index in pending:
                try:
                    inputs[index] = self._read_input(step, rows[index], attempt=attempt)
                except BadRecord as error:
                    errors[index] = error
            for index, row_input in inputs.items():
                try:
                    images[index], kept[index] = self._make_view(row_input)
                    captions[index] = row_input.caption
                except BadRecord as error:
                    errors[index] = error
            for index, error in errors.items():
                failures[index, attempt] = error.code
            pending = sorted(errors)
            if not pending:
                patches = {"kept_patches": np.stack(kept)} if self.augmentation.keep_patches < 1 else {}
                return {"images": images, "tokens": self.tokenize(captions), **patches, FAILURES: failures}
        raise ValueError(
            f"none of the {ATTEMPTS} records tried for one row of a batch can be used; the last error is: "
            f"{errors[pending[0]]}. Repair the data."
        )

    def failure(self, step: int, row: int, *, attempt: int) -> BadRecord | None:
        """Return the error of an attempt at a row, or None if it succeeds."""
        try:
            self._make_view(self._read_input(step, row, attempt=attempt))
        except BadRecord as error:
            return error
        return None

    def _read_input(self, step: int, row: int, *, attempt: int) -> _RowInput:
        record = self.source[self.sampler.sample_id(step, row, attempt=attempt)]
        rng = generator(self.sampler.seed, self.sampler.position(step), row)
        return _RowInput(record, choose_caption(record, self.caption, rng=rng), rng)

    def _make_view(self, row_input: _RowInput) -> _View:
        encoded = EncodedImage(row_input.record.image, row_input.record.key, max_pixels=self.max_pixels)
        image = augment(encoded, self.image_shape, settings=self.augmentation, rng=row_input.rng)
        fraction = self.augmentation.keep_patches
        if fraction == 1:
            return _View(image, np.empty(0, np.int32))
        return _View(image, choose_patches(self.num_patches, fraction, rng=row_input.rng))

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
        """Return an endless iterator over batches from step `start_step` on, prefetched in the background.

        `rows` are this host's rows of the global batch. With `workers` = 0, `threads` threads each make a part of a
        batch. With `workers` > 0, that many processes of `threads` threads each make whole batches in turn. Unusable
        records are reported to `bad_records`. `place` is called on each prefetched batch, to put it on devices.
        """
        start, stop, _ = rows.indices(self.sampler.batch_size)
        return BatchIterator(
            self,
            start_step,
            rows=range(start, stop),
            threads=threads,
            workers=workers,
            bad_records=bad_records,
            place=place,
        )


class BatchIterator:
    """An endless iterator over batches; `close()` ends its threads and processes."""

    def __init__(
        self,
        loader: BatchLoader,
        start_step: int,
        *,
        rows: range,
        threads: int,
        workers: int,
        bad_records: BadRecordTracker | None,
        place: Callable[[dict[str, np.ndarray]], Any],
    ):
        import grain
        from grain.experimental import ThreadPrefetchIterDataset

        self._loader, self._rows, self._step = loader, rows, start_step
        self._bad_records, self._place = bad_records, place
        self._shared = SharedObject(loader) if workers else None
        parts = 1 if workers else min(threads, len(rows))
        make_part = _MakePart(self._shared or loader, rows, parts)
        elements = grain.MapDataset.range(start_step * parts, _ENDLESS).map(make_part)
        buffer_size = max(_PREFETCHED_BATCHES * parts, threads)
        stream = elements.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=buffer_size))
        if workers:
            _parse_absl_flags()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
            stream = stream.mp_prefetch(options, worker_init_fn=_InitWorker(os.getpid()))
        if parts > 1:
            stream = stream.batch(parts, batch_fn=_concatenate)
        self._iterator = iter(ThreadPrefetchIterDataset(stream.map(self._finish), prefetch_buffer_size=1))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._iterator)
        except (RuntimeError, BrokenPipeError) as error:
            if isinstance(error, RuntimeError) and "Worker process was terminated" not in str(error):
                raise
            raise OSError(
                "a data worker process ended unexpectedly, for example for want of memory. Set data.workers=0, or free "
                "some memory, and run the same command again to resume."
            ) from error

    def close(self) -> None:
        """End the threads and processes that prefetch batches."""
        self._iterator.close()
        if self._shared:
            self._shared.remove()

    def _finish(self, batch: dict[str, np.ndarray]) -> Any:
        """Report the bad records of the next batch and place it; called once per batch, in order."""
        failures, step = batch.pop(FAILURES), self._step
        self._step += 1
        if self._bad_records:
            sampler, source = self._loader.sampler, self._loader.source
            self._bad_records.count(
                failures,
                lambda row, attempt: source.key(sampler.sample_id(step, self._rows[row], attempt=attempt)),
                step=step,
            )
        return self._place(batch)


@dataclasses.dataclass(frozen=True)
class _MakePart:
    """Maps n to part n % `parts` of this host's rows of batch n // `parts`."""

    loader: BatchLoader | SharedObject
    rows: range
    parts: int

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        step, part = divmod(number, self.parts)
        first, last = (len(self.rows) * edge // self.parts for edge in (part, part + 1))
        loader = self.loader.get() if isinstance(self.loader, SharedObject) else self.loader
        return loader.rows(step, self.rows[first:last])


@dataclasses.dataclass(frozen=True)
class _InitWorker:
    """Let a worker process ignore interrupts, and exit when the training process is gone."""

    parent: int

    def __call__(self, index: int, count: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._watch_parent, daemon=True).start()

    def _watch_parent(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(_PARENT_CHECK_SECONDS)
        os._exit(1)


def _concatenate(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _parse_absl_flags() -> None:
    """Mark absl's flags as parsed, at their defaults: Grain passes them on to its processes."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def choose_caption(record: Record, mode: str, *, rng: np.random.Generator) -> str:
    """Return the caption of a sample according to `mode`, one of `CAPTIONS`; raises `BadRecord` if it has no text."""
    texts = record.texts
    if not texts:
        raise BadRecord("no caption", record.key, "the sample has no caption")
    if mode == "first":
        return texts[0]
    if mode == "random":
        return texts[rng.integers(len(texts))]
    order = range(len(texts)) if mode == "all" else rng.permutation(len(texts))
    return ", ".join(texts[index] for index in order)

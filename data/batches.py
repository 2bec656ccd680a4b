"""From a source and a plan to prefetched batches of arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data.augmentation import Augmentation, augment, choose_patches
from data.bad_records import BadRecords
from data.images import MAX_PIXELS, Picture
from data.plan import Plan, generator
from data.records import BadRecord, Record, Source

CAPTIONS = ("first", "random", "all", "shuffled")
ATTEMPTS = 8  # records that are tried for one row
FAILURES = "failures"
_AHEAD = 2  # batches
_FOR_EVER = 1 << 62  # examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingExamples:
    """Makes row `row` of batch `step`: a random view of the picture and the token ids of a caption.

    `tokenize` maps a caption to token ids `[length]`; `num_patches` is the number of patches of an image. `caption`
    says which text is used: the `first`, a `random` one, or `all` of them joined by commas, in their order or
    `shuffled`. A picture of more than `max_pixels` is not decoded.

    Whatever the number of hosts, threads and processes, a row is the same. A record that cannot be used is replaced by
    another, which the plan draws from the same source.
    """

    source: Source
    plan: Plan
    image_size: int
    num_patches: int
    augmentation: Augmentation
    tokenize: Callable[[str], np.ndarray]
    caption: str = "random"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.caption not in CAPTIONS:
            raise ValueError(f"unknown caption {self.caption!r}; known: {', '.join(CAPTIONS)}")

    def example(self, step: int, row: int) -> dict[str, np.ndarray]:
        """Returns `images` `[size, size, 3]` uint8, `tokens` `[length]` int32, and `kept_patches` where some are.

        `failures` `[attempts]` uint8 has the code of the reason for which each attempt failed, 0 for the rest. Raises
        `ValueError` where all failed.
        """
        failures = np.zeros(ATTEMPTS, np.uint8)
        for attempt in range(ATTEMPTS):
            try:
                example = self.attempt(step, row, attempt)
            except BadRecord as error:
                failures[attempt], last = error.code, error
            else:
                return {**example, FAILURES: failures}
        raise ValueError(f"{ATTEMPTS} records in a row cannot be used, the last for this reason: {last}")

    def attempt(self, step: int, row: int, attempt: int) -> dict[str, np.ndarray]:
        """Returns what `example` does of one attempt's record, without `failures`; raises `BadRecord` for a bad one."""
        record = self.source[self.plan.sample_id(step, row, attempt=attempt)]
        rng = generator(self.plan.seed, step, row)
        caption = choose_caption(record, self.caption, rng)
        picture = Picture(record.image, record.key, max_pixels=self.max_pixels)
        image = augment(picture, self.image_size, self.augmentation, rng)
        example = {"images": image, "tokens": self.tokenize(caption)}
        if self.augmentation.keep_patches < 1:
            example["kept_patches"] = choose_patches(self.num_patches, self.augmentation.keep_patches, rng)
        return example

    def batches(
        self,
        start_step: int,
        *,
        rows: slice,
        threads: int = 2,
        workers: int = 0,
        bad_records: BadRecords | None = None,
        place: Callable[[dict[str, np.ndarray]], Any] = lambda batch: batch,
    ) -> Batches:
        """Returns the given rows of batch `start_step`, then of the next, without end; made ahead.

        `rows` are this host's rows of the global batch. They are made in `threads` threads, or in so many threads of
        each of `workers` processes. `bad_records` keeps account; `place` is called on every batch ahead of its turn,
        to put it on devices.
        """
        start, stop, _ = rows.indices(self.plan.batch_size)
        return Batches(self, start_step, range(start, stop), threads, workers, bad_records, place)


class Batches:
    """An endless iterator over batches, to be closed: `close()` ends its threads and processes."""

    def __init__(
        self,
        examples: TrainingExamples,
        start_step: int,
        rows: range,
        threads: int,
        workers: int,
        bad_records: BadRecords | None,
        place: Callable[[dict[str, np.ndarray]], Any],
    ):
        import grain
        from grain.experimental import ThreadPrefetchIterDataset

        self._examples, self._rows, self._step = examples, rows, start_step
        self._bad_records, self._place = bad_records, place
        positions = grain.MapDataset.range(start_step * len(rows), _FOR_EVER).map(_Example(examples, rows))
        if workers:  # each makes whole batches in turn, which cost less to hand over than examples
            _let_grain_start_processes()
            made = positions.batch(len(rows)).to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=threads))
            made = made.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1))
        else:
            made = positions.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=_AHEAD * len(rows)))
            made = made.batch(len(rows))
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
            plan, source = self._examples.plan, self._examples.source
            self._bad_records.count(
                failures,
                lambda row, attempt: source.key(plan.sample_id(step, self._rows[row], attempt=attempt)),
                step=step,
            )
        return self._place(batch)


@dataclasses.dataclass(frozen=True)
class _Example:
    """Maps a position of this host to its example."""

    examples: TrainingExamples
    rows: range

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        step, row = divmod(position, len(self.rows))
        return self.examples.example(step, self.rows[row])


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

"""From a source and a plan to prefetched batches of arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from data.images import Augmentation, augment, choose_patches, decode
from data.plan import Plan, row_generator
from data.records import Source

CAPTIONS = ("first", "random", "all", "shuffled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingExamples:
    """Makes row `row` of batch `step`: a random view of the picture and the token ids of a caption.

    `tokenize` maps a caption to token ids `[length]`; `num_patches` is the number of patches of an image. `caption`
    says which text is used: the `first`, a `random` one, or `all` of them joined by commas, in their order or
    `shuffled`.
    """

    source: Source
    plan: Plan
    image_size: int
    num_patches: int
    augmentation: Augmentation
    tokenize: Callable[[str], np.ndarray]
    caption: str = "random"

    def __post_init__(self) -> None:
        if self.caption not in CAPTIONS:
            raise ValueError(f"unknown caption {self.caption!r}; known: {', '.join(CAPTIONS)}")

    def example(self, step: int, row: int) -> dict[str, np.ndarray]:
        """Returns `images` `[size, size, 3]` uint8, `tokens` `[length]` int32, and `kept_patches` where some are."""
        record = self.source[self.plan.sample_id(step, row)]
        rng = row_generator(self.plan.seed, step, row)
        if not record.texts:
            raise ValueError(f"{record.key}: this sample has no text")
        image = augment(decode(record.image, record.key), self.image_size, self.augmentation, rng)
        example = {"images": image, "tokens": self.tokenize(choose_caption(record.texts, self.caption, rng))}
        if self.augmentation.keep_patches < 1:
            example["kept_patches"] = choose_patches(self.num_patches, self.augmentation.keep_patches, rng)
        return example

    def batches(self, start_step: int, *, rows: slice, threads: int = 2) -> Iterator[dict[str, np.ndarray]]:
        """Yields the given rows of batch `start_step`, then of the next, without end; made ahead in threads.

        `rows` are this host's rows of the global batch.
        """
        import grain

        start, stop, _ = rows.indices(self.plan.batch_size)
        height = stop - start

        def example(position: int) -> dict[str, np.ndarray]:
            step, row = divmod(position, height)
            return self.example(step, start + row)

        positions = grain.MapDataset.range(start_step * height, np.iinfo(np.int64).max)
        batches = positions.map(example).batch(height)
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2)))


def choose_caption(texts: tuple[str, ...], how: str, rng: np.random.Generator) -> str:
    """Returns the caption of a sample, by one of `CAPTIONS`."""
    if how == "first":
        return texts[0]
    if how == "random":
        return texts[rng.integers(len(texts))]
    order = range(len(texts)) if how == "all" else rng.permutation(len(texts))
    return ", ".join(texts[index] for index in order)

"""Which samples make batch `s`: a pure function of the step, so that the position in the data is the step."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """An endless sequence of batches over `num_samples` samples, shuffled anew each epoch.

    No permutation is held: each position of an epoch is mapped to its sample by a keyed bijection. An epoch visits
    every sample once; a batch may hold the end of one epoch and the start of the next.
    """

    num_samples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.batch_size < 1:
            raise ValueError(f"a plan needs samples and a batch; got {self.num_samples} and {self.batch_size}")

    def sample_id(self, step: int, row: int) -> int:
        """Returns the sample in row `row` of the global batch of step `step`."""
        from grain.experimental import index_shuffle

        epoch, position = divmod(step * self.batch_size + row, self.num_samples)
        seed = np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]
        return index_shuffle(position, self.num_samples - 1, int(seed), 4)

    def sample_ids(self, step: int) -> np.ndarray:
        """Returns the samples of the global batch of step `step`, `[batch]` int64."""
        return np.array([self.sample_id(step, row) for row in range(self.batch_size)], np.int64)


def row_generator(seed: int, step: int, row: int) -> np.random.Generator:
    """Returns the random generator of one row of one batch: the same on whichever host that row is made."""
    return np.random.Generator(
        np.random.Philox(key=np.random.SeedSequence((seed, step, row)).generate_state(2, np.uint64))
    )

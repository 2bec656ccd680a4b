"""Batch sampling as a pure function of the step: the data position of a run is its step, so no state is saved."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

_ROUNDS = 4  # of the keyed bijection
_SMALL = 1024  # smaller sets are permuted in memory: the bijection rejects within 2^16, which is slow for them
_MIN_CYCLE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSampler:
    """An endless sequence of batches over the samples of one or more sources, reshuffled every epoch.

    `lengths` are the numbers of samples of the sources. Sample ids number the samples of all sources consecutively.
    Without `weights`, an epoch visits every sample of every source once. With `weights`, which need not sum to 1, each
    source contributes its share of the examples and has its own epochs; after every `cycle` examples, the number drawn
    from each source is within one of its share.

    No permutation is stored: a keyed bijection maps each position of an epoch to a sample. A batch may span the end of
    one epoch and the start of the next.

    `group_size` > 1 keeps groups of samples together: `order` `[samples]` lists the members of each group next to each
    other, whole groups are shuffled, and a group never spans two batches. Up to `group_size` − 1 samples at the end of
    `order` are left out.

    `views` > 1 repeats each sample that many times in a row, within one batch.

    `skipped` holds pairs (step, count): from that step on, every batch is `count` batches later in the sequence.
    """

    lengths: tuple[int, ...]
    batch_size: int
    seed: int
    weights: tuple[float, ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()
    group_size: int = 1
    views: int = 1
    order: np.ndarray | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        check_groups(group_size=self.group_size, views=self.views, batch_size=self.batch_size, weights=self.weights)
        check_weights(self.weights, len(self.lengths))
        if not self.lengths or min(self.lengths) < (1 if self.weights else 0) or not sum(self.lengths):
            raise ValueError(
                f"the sources have {', '.join(map(str, self.lengths)) or 'no'} samples; batches need at least one"
                f"{' from each weighted source' if self.weights else ''}"
            )

    @property
    def num_samples(self) -> int:
        """The number of samples of all sources."""
        return sum(self.lengths)

    def sample_id(self, step: int, row: int, *, attempt: int = 0) -> int:
        """Return the sample in row `row` of the global batch of step `step`.

        `attempt` ≥ 1 returns replacements for an unusable sample, from the same source if there are weights.
        """
        step = self.position(step)
        example = (step * self.batch_size + row) // self.views
        if self.group_size > 1 and not attempt:
            return self._grouped_sample(example)
        drawn = self._mixture.draw(example) if self.weights else _SourceExample(0, example)
        first, length = self._shuffled_spans[drawn.source]
        if attempt:
            return first + int(generator(self.seed, step, row, attempt).integers(length))
        epoch, position = divmod(drawn.number, length)
        key = (self.seed, epoch, drawn.source) if self.weights else (self.seed, epoch)
        return first + shuffled_index(position, length, key=key)

    def _grouped_sample(self, example: int) -> int:
        groups = self.num_samples // self.group_size
        if not groups or self.order is None:
            raise ValueError(f"{self.num_samples} samples are too few for a group of data.group_size {self.group_size}")
        group, member = divmod(example, self.group_size)
        epoch, position = divmod(group, groups)
        chosen = shuffled_index(position, groups, key=(self.seed, epoch))
        return int(self.order[chosen * self.group_size + member])

    def position(self, step: int) -> int:
        """Return the position of batch `step` in the sequence without skips."""
        return step + sum(count for since, count in self.skipped if since <= step)

    def sample_ids(self, step: int, rows: range | None = None) -> np.ndarray:
        """Return the samples of the global batch of step `step`, or of some of its rows, `[rows]` int64."""
        rows = range(self.batch_size) if rows is None else rows
        return np.array([self.sample_id(step, row) for row in rows], np.int64)

    @property
    def cycle(self) -> int:
        """The number of examples after which every source has contributed its share; 1 without weights."""
        return self._mixture.cycle if self.weights else 1

    @functools.cached_property
    def _shuffled_spans(self) -> list[tuple[int, int]]:
        """The first sample id and the length of each span of samples that is shuffled as one set."""
        if not self.weights:
            return [(0, self.num_samples)]
        ends = itertools.accumulate(self.lengths)
        return [(end - length, length) for end, length in zip(ends, self.lengths, strict=True)]

    @functools.cached_property
    def _mixture(self) -> _Mixture:
        return _Mixture(self.weights, self.seed)


def check_groups(*, group_size: int, views: int, batch_size: int, weights: Sequence[float]) -> None:
    """Raise `ValueError` if groups or views do not fill batches, or if groups are combined with weights."""
    for name, value in (("views", views), ("group_size", group_size)):
        if value < 1:
            raise ValueError(f"data.{name} is {value}; it must be at least 1")
    if batch_size % views:
        raise ValueError(
            f"data.views {views} does not divide batch_size {batch_size}. Use {_nearest_multiples(batch_size, views)}."
        )
    if batch_size // views % group_size:
        times = f" times data.views {views}" if views > 1 else ""
        raise ValueError(
            f"data.group_size {group_size}{times} does not divide batch_size {batch_size}. "
            f"Use {_nearest_multiples(batch_size, group_size * views)}."
        )
    if group_size > 1 and weights:
        raise ValueError(
            f"data.group_size {group_size} cannot be combined with data.weights {tuple(weights)}. Remove one of them."
        )


def _nearest_multiples(number: int, factor: int) -> str:
    below = number // factor * factor
    return f"{below} or {below + factor}" if below else str(factor)


def check_weights(weights: Sequence[float], num_sources: int) -> None:
    """Raise `ValueError` unless `weights` is empty or holds one positive number per source."""
    if weights and len(weights) != num_sources:
        raise ValueError(f"data.weights has {len(weights)} numbers for {num_sources} sources. Give one per source.")
    if not all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in weights):
        raise ValueError(f"data.weights {weights} must be positive numbers. To exclude a source, remove it.")


class _SourceExample(NamedTuple):
    """The `number`-th example, from 0, drawn from a source."""

    source: int
    number: int


class _Mixture:
    """Assigns examples to sources by weight, in exact arithmetic.

    Examples are divided into cycles. Before cycle c, the first k sources together have contributed
    floor(W_k · c · cycle) examples, where W_k is their total share. The number of examples per source in a cycle
    follows by subtraction; a keyed shuffle places them within the cycle.
    """

    def __init__(self, weights: Sequence[float], seed: int):
        exact = [Fraction(str(weight)) for weight in weights]
        total = sum(exact)
        self._shares = [Fraction(0), *(share / total for share in itertools.accumulate(exact))]
        # Rounding removes up to two examples from a source's part of a cycle, which must not become negative.
        self.cycle = max(_MIN_CYCLE, math.ceil(2 * total / min(exact)))
        self._seed = seed

    def draw(self, example: int) -> _SourceExample:
        cycle, offset = divmod(example, self.cycle)
        slot = shuffled_index(offset, self.cycle, key=(self._seed, cycle, len(self._shares)))
        before, after = self._drawn_before(cycle), self._drawn_before(cycle + 1)
        for source in range(len(before) - 1):
            first, last = after[source] - before[source], after[source + 1] - before[source + 1]
            if slot < last:
                return _SourceExample(source, before[source + 1] - before[source] + slot - first)
        raise AssertionError("the shares add up to 1")

    @functools.lru_cache(maxsize=64)  # noqa: B019 - a sampler lives as long as its run
    def _drawn_before(self, cycle: int) -> list[int]:
        """Return the numbers of examples that the first 0, 1, … sources have contributed before a cycle."""
        return [share.numerator * cycle * self.cycle // share.denominator for share in self._shares]


def shuffled_index(position: int, length: int, *, key: tuple[int, ...]) -> int:
    """Return the index in [0, length) to which the shuffle with this key maps `position`."""
    if length <= _SMALL:
        return int(_permutation(length, key)[position])
    from grain.experimental import index_shuffle

    seed = _shuffle_seed(key)
    if not _is_power_of_four(length - 1):
        return index_shuffle(position, length - 1, seed, _ROUNDS)
    # `index_shuffle` is not a bijection for a maximum of 4^k: shuffle one index more, and map again what lands on it.
    index = index_shuffle(position, length, seed, _ROUNDS)
    return index if index < length else index_shuffle(length, length, seed, _ROUNDS)


def _is_power_of_four(number: int) -> bool:
    return number.bit_count() == 1 and number.bit_length() % 2 == 1


@functools.lru_cache(maxsize=128)
def _permutation(length: int, key: tuple[int, ...]) -> np.ndarray:
    return generator(*key).permutation(length)


@functools.lru_cache(maxsize=4096)
def _shuffle_seed(key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def generator(*key: int) -> np.random.Generator:
    """Return the random generator of a key such as (seed, step, row); it is the same on every host."""
    return np.random.Generator(np.random.Philox(key=np.random.SeedSequence(key).generate_state(2, np.uint64)))

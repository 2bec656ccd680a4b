"""Which samples make batch `s`: a pure function of the step, so that the position in the data is the step."""

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
_SMALL = 1024  # the bijection is found by trial within 2^16, and so is slow for small sets
_LEAST_CYCLE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSampler:
    """An endless sequence of batches over the samples of one or more sources, shuffled anew each epoch.

    `lengths` are the numbers of samples of the sources; sample ids count through them, one source after the other.
    Without `weights` all samples are one set: an epoch visits every one once. With weights, which need not sum to 1,
    each source has its share of the examples and epochs of its own; after every `cycle` examples the numbers of
    examples drawn from each are within one of their shares, for ever.

    No permutation is held: each position of an epoch is mapped to its sample by a keyed bijection. A batch may hold the
    end of one epoch and the start of the next.

    With `group_size` above 1, samples come in groups: `order` `[samples]` has those of a group next to each other,
    whole groups are shuffled, and each is within one batch. Up to `group_size` − 1 samples at the end of the order are
    left out.

    With `views` above 1, each sample comes so many times in a row, all within one batch.

    Each pair (step, count) of `skipped` leaves out so many batches: from that step on every batch is a later one.
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
        check_groups(
            group_size=self.group_size, views=self.views, batch_size=self.batch_size, weights=self.weights
        )
        check_weights(self.weights, len(self.lengths))
        if not self.lengths or min(self.lengths) < (1 if self.weights else 0) or not sum(self.lengths):
            raise ValueError(f"a sampler needs samples; the sources have {', '.join(map(str, self.lengths))}")

    @property
    def num_samples(self) -> int:
        """The number of samples of all sources."""
        return sum(self.lengths)

    def sample_id(self, step: int, row: int, *, attempt: int = 0) -> int:
        """Returns the sample in row `row` of the global batch of step `step`.

        Attempts from 1 on give other samples, of the same source where there are weights, for one that cannot be used.
        """
        step = self.position(step)
        number = (step * self.batch_size + row) // self.views
        if self.group_size > 1 and not attempt:
            return self._of_group(number)
        drawn = self._mixture.draw(number) if self.weights else _Draw(0, number)
        first, length = self._spans[drawn.source]
        if attempt:
            return first + int(generator(self.seed, step, row, attempt).integers(length))
        epoch, position = divmod(drawn.number, length)
        key = (self.seed, epoch, drawn.source) if self.weights else (self.seed, epoch)
        return first + shuffled(position, length, key)

    def _of_group(self, number: int) -> int:
        """Returns the sample of example `number`, which is one of a group."""
        groups = self.num_samples // self.group_size
        if not groups or self.order is None:
            raise ValueError(f"{self.num_samples} samples make no group of {self.group_size}")
        group, member = divmod(number, self.group_size)
        epoch, position = divmod(group, groups)
        place = shuffled(position, groups, (self.seed, epoch))
        return int(self.order[place * self.group_size + member])

    def position(self, step: int) -> int:
        """Returns the place of batch `step` in the sequence of which nothing is skipped."""
        return step + sum(count for since, count in self.skipped if since <= step)

    def sample_ids(self, step: int) -> np.ndarray:
        """Returns the samples of the global batch of step `step`, `[batch]` int64."""
        return np.array([self.sample_id(step, row) for row in range(self.batch_size)], np.int64)

    @property
    def cycle(self) -> int:
        """The number of examples after which every source has had its share; 1 without weights."""
        return self._mixture.cycle if self.weights else 1

    @functools.cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """The first sample id and the number of samples of what is shuffled together."""
        if not self.weights:
            return [(0, self.num_samples)]
        ends = itertools.accumulate(self.lengths)
        return [(end - length, length) for end, length in zip(ends, self.lengths, strict=True)]

    @functools.cached_property
    def _mixture(self) -> _Mixture:
        return _Mixture(self.weights, self.seed)


def check_groups(*, group_size: int, views: int, batch_size: int, weights: Sequence[float]) -> None:
    """Raises `ValueError` for groups or views that do not fill batches, or groups that weights would take apart."""
    if views < 1 or batch_size % views:
        raise ValueError(f"data.views {views} does not divide batch_size {batch_size}")
    if group_size < 1 or batch_size // views % group_size:
        times = f" times data.views {views}" if views > 1 else ""
        raise ValueError(f"data.group_size {group_size}{times} does not divide batch_size {batch_size}")
    if group_size > 1 and weights:
        raise ValueError(f"data.group_size {group_size} goes without data.weights {tuple(weights)}")


def check_weights(weights: Sequence[float], sources: int) -> None:
    """Raises `ValueError` where `weights` are not one positive number for each source; none at all are fine."""
    if weights and len(weights) != sources:
        raise ValueError(f"data.weights has {len(weights)} numbers for {sources} sources")
    if not all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in weights):
        raise ValueError(f"data.weights {weights} must be positive numbers; leave a source out to have none")


class _Draw(NamedTuple):
    """The `number`-th example (from 0) of a source."""

    source: int
    number: int


class _Mixture:
    """Deals positions to sources by weight, in exact arithmetic.

    The positions are cut into cycles. Before cycle c, the first k sources together have had floor(W_k · c · cycle)
    examples, W_k their share; what a source gets in a cycle follows by subtraction, and which positions of the cycle,
    by a keyed shuffle.
    """

    def __init__(self, weights: Sequence[float], seed: int):
        exact = [Fraction(str(weight)) for weight in weights]
        total = sum(exact)
        self._shares = [Fraction(0), *(share / total for share in itertools.accumulate(exact))]
        # Rounding takes up to two examples of a source's part of a cycle, which must not become negative.
        self.cycle = max(_LEAST_CYCLE, math.ceil(2 * total / min(exact)))
        self._seed = seed

    def draw(self, position: int) -> _Draw:
        cycle, offset = divmod(position, self.cycle)
        slot = shuffled(offset, self.cycle, (self._seed, cycle, len(self._shares)))
        before, after = self._dealt(cycle), self._dealt(cycle + 1)
        for source in range(len(before) - 1):
            first, last = after[source] - before[source], after[source + 1] - before[source + 1]
            if slot < last:
                return _Draw(source, before[source + 1] - before[source] + slot - first)
        raise AssertionError("the shares add up to 1")

    @functools.lru_cache(maxsize=64)  # noqa: B019 - a sampler lives as long as its run
    def _dealt(self, cycle: int) -> list[int]:
        """Returns how many examples the first 0, 1, … sources together have had before a cycle."""
        return [share.numerator * cycle * self.cycle // share.denominator for share in self._shares]


def shuffled(position: int, length: int, key: tuple[int, ...]) -> int:
    """Returns where `position` of [0, length) goes in the shuffle that `key` names."""
    if length <= _SMALL:
        return int(_permutation(length, key)[position])
    from grain.experimental import index_shuffle

    seed = _shuffle_seed(key)
    if not _is_power_of_four(length - 1):
        return index_shuffle(position, length - 1, seed, _ROUNDS)
    # One past a power of four the function is no bijection: one place more is shuffled, and what lands there goes on.
    place = index_shuffle(position, length, seed, _ROUNDS)
    return place if place < length else index_shuffle(length, length, seed, _ROUNDS)


def _is_power_of_four(number: int) -> bool:
    return number.bit_count() == 1 and number.bit_length() % 2 == 1


@functools.lru_cache(maxsize=128)
def _permutation(length: int, key: tuple[int, ...]) -> np.ndarray:
    return generator(*key).permutation(length)


@functools.lru_cache(maxsize=4096)
def _shuffle_seed(key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def generator(*key: int) -> np.random.Generator:
    """Returns the random generator that a key names, such as (seed, step, row): the same on whichever host."""
    return np.random.Generator(np.random.Philox(key=np.random.SeedSequence(key).generate_state(2, np.uint64)))

"""The batch sampler: which samples form which batch."""

import math
from fractions import Fraction

import numpy as np
import pytest

from data.pipeline.sampler import BatchSampler


@pytest.mark.parametrize(
    ("num_samples", "batch_size"),
    [(11, 4), (100, 7), (3, 256), (1, 2), (1024, 100), (1025, 100), (4097, 999), (65_537, 4096)],
)
def test_every_epoch_visits_every_sample_once(num_samples, batch_size):
    sampler = BatchSampler(lengths=(num_samples,), batch_size=batch_size, seed=0)
    steps = -(-3 * num_samples // batch_size)
    ids = np.concatenate([sampler.sample_ids(step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(ids[epoch * num_samples : (epoch + 1) * num_samples]) == list(range(num_samples))


def test_without_weights_all_sources_form_one_set():
    together, apart = (BatchSampler(lengths=lengths, batch_size=5, seed=2) for lengths in ((40,), (7, 0, 33)))
    assert all(np.array_equal(together.sample_ids(step), apart.sample_ids(step)) for step in range(20))


def test_epochs_and_seeds_have_different_orders():
    first = BatchSampler(lengths=(50,), batch_size=50, seed=0)
    assert not np.array_equal(first.sample_ids(0), first.sample_ids(1))
    assert not np.array_equal(first.sample_ids(0), BatchSampler(lengths=(50,), batch_size=50, seed=1).sample_ids(0))


def test_ten_billion_samples_need_no_memory():
    ids = BatchSampler(lengths=(10_000_000_000,), batch_size=8, seed=0).sample_ids(10**8)
    assert len(set(ids)) == 8 and ids.max() < 10_000_000_000 and ids.max() > 2**32


LENGTHS = (7, 100, 3, 5000)


def draws(sampler, steps):
    """Return for each example of some steps its source, and its sample within the source."""
    ids = np.concatenate([sampler.sample_ids(step) for step in steps])
    starts = np.cumsum([0, *LENGTHS])
    source = np.searchsorted(starts, ids, side="right") - 1
    return source, ids - starts[source]


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (0.3, 0.6, 0.05, 0.05), (1, 1000, 3, 7), (1 / 3, 0.1, 2.5, 0.7)])
def test_every_cycle_draws_each_sources_share(weights):
    sampler = BatchSampler(lengths=LENGTHS, batch_size=cycle_of(weights), seed=4, weights=weights)
    assert sampler.cycle == sampler.batch_size
    source, _ = draws(sampler, range(5))
    shares = np.array([Fraction(str(weight)) for weight in weights])
    for cycles in range(1, 6):
        drawn = np.bincount(source[: cycles * sampler.cycle], minlength=4)
        expected = cycles * sampler.cycle * shares / shares.sum()
        assert all(abs(a - b) < 1 for a, b in zip(drawn, expected, strict=True))


def cycle_of(weights):
    return BatchSampler(lengths=LENGTHS, batch_size=1, seed=0, weights=weights).cycle


def test_shares_hold_after_a_trillion_examples():
    """The number drawn from each source before a late cycle shows in the epoch of its samples."""
    weights = (0.3, 0.6, 0.05, 0.05)
    sampler = BatchSampler(lengths=LENGTHS, batch_size=1024, seed=4, weights=weights)
    step = 10**9
    source, sample = draws(sampler, [step])
    whole = BatchSampler(lengths=LENGTHS, batch_size=1, seed=4, weights=weights)
    assert whole.sample_id(step * 1024 + 5, 0) == sampler.sample_id(step, 5)
    for number, weight in enumerate(weights):
        drawn = sample[source == number]
        assert abs(len(drawn) - 1024 * weight) < 2
        # The draws span one epoch, or the end of one and the start of the next; that bounds repetitions.
        assert np.bincount(drawn).max() <= math.ceil(len(drawn) / LENGTHS[number]) + 1


def test_each_source_of_a_mixture_has_its_own_epochs():
    sampler = BatchSampler(lengths=LENGTHS, batch_size=64, seed=1, weights=(1, 2, 1, 4))
    source, sample = draws(sampler, range(64))
    for number, length in enumerate(LENGTHS[:3]):
        drawn = sample[source == number]
        counts = np.bincount(drawn, minlength=length)
        assert counts.max() - counts.min() <= 1
    assert len(set(sample[source == 3])) == (source == 3).sum()


def test_a_replacement_comes_from_the_same_source_and_is_deterministic():
    sampler = BatchSampler(lengths=LENGTHS, batch_size=64, seed=1, weights=(1, 2, 1, 4))
    starts = np.cumsum([0, *LENGTHS])
    for row in range(64):
        ids = [sampler.sample_id(3, row, attempt=attempt) for attempt in range(4)]
        assert len(set(np.searchsorted(starts, ids, side="right"))) == 1
        assert ids == [sampler.sample_id(3, row, attempt=attempt) for attempt in range(4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (1, 2)}, "data.weights has 2 numbers for 3 sources"),
        ({"weights": (1, 0, 1)}, "must be positive numbers. To exclude a source, remove it"),
        ({"weights": (1, float("nan"), 1)}, "must be positive numbers"),
        ({"weights": (1, "2", 1)}, "must be positive numbers"),
        ({"lengths": (0, 0)}, "the sources have 0, 0 samples; batches need at least one"),
        (
            {"lengths": (3, 0, 2), "weights": (1, 1, 1)},
            "the sources have 3, 0, 2 samples; batches need at least one from each weighted source",
        ),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_invalid_settings_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        BatchSampler(**{"lengths": (3, 4, 5), "batch_size": 2, "seed": 0, **change})

"""Groups of samples with similar captions, and batches of such groups."""

import numpy as np
import pytest

from data.pipeline.caption_groups import group_by_texts
from data.pipeline.sampler import BatchSampler

WORDS = ("red apple", "green pear", "black dog", "white cat", "fast car", "slow train", "old house", "new bridge")


@pytest.mark.parametrize(("copies", "size"), [(2, 2), (4, 4), (3, 3), (6, 2)])
def test_similar_texts_form_groups(copies, size):
    rng = np.random.default_rng(0)
    word_of = rng.permutation(np.repeat(np.arange(len(WORDS)), copies))
    order = group_by_texts([f"{WORDS[word]} {rng.integers(9)}" for word in word_of], size)
    assert sorted(order) == list(range(len(word_of)))
    groups = word_of[order].reshape(-1, size)
    assert np.mean(groups == groups[:, :1]) > 0.9


def test_empty_texts_and_few_texts_are_grouped():
    assert sorted(group_by_texts(["", "", "", "?", ""], 2)) == list(range(5))
    assert list(group_by_texts(["a", "b"], 4)) == [0, 1]
    assert sorted(group_by_texts([f"word{number} same" for number in range(1001)], 8)) == list(range(1001))


@pytest.mark.parametrize(("samples", "size", "batch_size"), [(24, 4, 8), (25, 4, 8), (5003, 2, 6)])
def test_groups_never_span_batches_and_come_once_per_epoch(samples, size, batch_size):
    order = np.random.default_rng(1).permutation(samples)
    sampler = BatchSampler(lengths=(samples,), batch_size=batch_size, seed=0, group_size=size, order=order)
    group_of = np.full(samples, -1)
    whole = samples // size * size
    group_of[order[:whole]] = np.arange(whole) // size
    steps = -(-2 * whole // batch_size)
    batches = np.array([sampler.sample_ids(step) for step in range(steps)])
    groups = group_of[batches].reshape(steps, -1, size)
    assert (groups == groups[..., :1]).all() and (groups >= 0).all()
    seen = batches.reshape(-1)
    first, second = seen[:whole], seen[whole : 2 * whole]
    assert sorted(first) == sorted(second) == sorted(order[:whole]) and not np.array_equal(first, second)


@pytest.mark.parametrize(("weights", "size"), [((), 1), ((1.0, 2.0), 1), ((), 2)])
def test_views_repeat_the_samples_of_a_smaller_batch(weights, size):
    given = {"lengths": (7, 9), "seed": 3, "weights": weights, "group_size": size, "order": np.arange(16)}
    sampler, once = BatchSampler(batch_size=12, views=3, **given), BatchSampler(batch_size=4, **given)
    for step in range(9):
        assert sampler.sample_ids(step).tolist() == np.repeat(once.sample_ids(step), 3).tolist()


def test_groups_that_do_not_fill_batches_are_rejected():
    with pytest.raises(ValueError, match=r"views 3 does not divide batch_size 8\. Use 6 or 9"):
        BatchSampler(lengths=(9,), batch_size=8, seed=0, views=3)
    with pytest.raises(ValueError, match=r"group_size 4 times data\.views 4 does not divide batch_size 8\. Use 16"):
        BatchSampler(lengths=(9,), batch_size=8, seed=0, views=4, group_size=4)
    with pytest.raises(ValueError, match="group_size 3 does not divide batch_size 8"):
        BatchSampler(lengths=(9,), batch_size=8, seed=0, group_size=3)
    with pytest.raises(ValueError, match=r"group_size 2 cannot be combined with data\.weights"):
        BatchSampler(lengths=(9, 9), batch_size=8, seed=0, group_size=2, weights=(1.0, 2.0))

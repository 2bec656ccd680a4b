"""Imbalanced support sets: totals, class frequencies, nested draws, and classes with too few images."""

import numpy as np
import pytest

from adapt.evaluation.protocols.imbalance import draw_imbalanced, natural_counts, zipf_counts
from adapt.evaluation.protocols.support_protocol import SupportProtocol
from adapt.evaluation.sampling import draw_nested

NATURAL, ZIPF = SupportProtocol("natural"), SupportProtocol("zipf", 1.0)
SIZES = (400, 200, 100, 50, 25, 5)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), SIZES))
ALL = np.ones(6, bool)


def counts(protocol, *, shots, seed=0, classes=ALL, labels=LABELS, keep=0):
    drawn = draw_imbalanced(labels, classes, shots=shots, seed=seed, protocol=protocol, keep=keep)
    assert len(set(drawn.rows.tolist())) == len(drawn.rows)
    return np.bincount(labels[drawn.rows], minlength=len(classes)), drawn


@pytest.mark.parametrize("protocol", [NATURAL, ZIPF], ids=["natural", "zipf"])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16, 32])
def test_a_support_set_has_shots_times_classes_images_and_one_or_more_of_each_class(protocol, shots):
    for seed in range(3):
        found, drawn = counts(protocol, shots=shots, seed=seed)
        assert found.sum() == shots * 6 and found.min() >= 1
        smaller, _ = counts(protocol, shots=max(shots // 2, 1), seed=seed)
        assert (smaller <= found).all()  # nested, as each class has the first images of one order
        balanced = draw_nested(LABELS, 6, shots=1, seed=seed).rows
        assert set(balanced.tolist()) <= set(drawn.rows.tolist())
        half = counts(protocol, shots=shots, seed=seed, classes=np.arange(6) < 3)[0]
        assert half.sum() == shots * 3 and not half[3:].any()


def test_natural_frequencies_are_those_of_the_support_split():
    drawn = np.array([natural_counts(SIZES, 60, seed=seed) for seed in range(400)])
    others = np.array(SIZES) - 1
    np.testing.assert_allclose(drawn.mean(axis=0), 1 + 54 * others / others.sum(), atol=0.35)
    assert len({tuple(each) for each in drawn.tolist()}) > 300  # random, not rounded


def test_zipf_frequencies_fall_with_the_rank_and_the_seed_draws_the_ranks():
    plenty = [10_000] * 6
    for exponent in (0.5, 1.0, 2.0):
        found, short = zipf_counts(plenty, 3000, exponent=exponent, seed=0, classes=ALL)
        expected = np.arange(1, 7.0) ** -exponent
        np.testing.assert_allclose(sorted(found, reverse=True), 3000 * expected / expected.sum(), atol=1.5)
        assert not short and sum(found) == 3000
    orders = {tuple(zipf_counts(plenty, 600, exponent=1.0, seed=seed, classes=ALL)[0]) for seed in range(20)}
    assert len(orders) > 15 and len({tuple(sorted(each)) for each in orders}) == 1


def test_images_that_a_class_lacks_go_to_other_classes_and_the_draw_is_short():
    for seed in range(8):
        found, short = zipf_counts(SIZES, 192, exponent=2.0, seed=seed, classes=ALL)
        assert sum(found) == 192 and (np.array(found) <= SIZES).all()
        assert not short or any(count == size for count, size in zip(found, SIZES, strict=True))
    assert not zipf_counts(SIZES, 12, exponent=1.0, seed=0, classes=ALL)[1]
    assert zipf_counts((400, 5, 5, 5, 5, 5), 192, exponent=1.0, seed=0, classes=ALL) == ([167, 5, 5, 5, 5, 5], True)


def test_classes_without_images_and_too_few_images_make_a_draw_short():
    labels = np.repeat([0, 2], [30, 3])
    for protocol in (NATURAL, ZIPF):
        found, drawn = counts(protocol, shots=4, labels=labels, classes=np.ones(3, bool))
        assert drawn.short and found[1] == 0 and found.sum() == 12
        found, drawn = counts(protocol, shots=16, labels=labels, classes=np.ones(3, bool), keep=1)
        assert drawn.short and found.tolist() == [29, 0, 2]

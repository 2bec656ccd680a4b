"""Draws of support sets: nested ones, and those of CoOp's published lists."""

import json
import pathlib

import numpy as np
import pytest

from adapt.evaluation.sampling import draw_all, draw_coop, draw_nested

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [17, 20, 40, 31]))
COOP = pathlib.Path(__file__).parents[3] / "../shared/data/coop"


def nested(shots, seed=0, **options):
    return draw_nested(LABELS, 4, shots=shots, seed=seed, **options)


def test_every_class_contributes_as_many_images_as_shots():
    for shots in (1, 2, 16):
        drawn = nested(shots)
        np.testing.assert_array_equal(LABELS[drawn.rows], np.repeat(np.arange(4), shots))
        assert not drawn.short


def test_the_draws_of_one_seed_are_nested():
    for fewer, more in ((1, 2), (2, 4), (4, 8), (8, 16), (16, 32)):
        assert set(nested(fewer).rows) < set(nested(more).rows)


def test_a_class_with_fewer_images_than_shots_contributes_all_but_the_kept_ones():
    drawn = nested(32)
    np.testing.assert_array_equal(np.bincount(LABELS[drawn.rows]), [17, 20, 32, 31])
    assert drawn.short and nested(18).short and not nested(17).short
    np.testing.assert_array_equal(np.bincount(LABELS[nested(17, keep=1).rows]), [16, 17, 17, 17])
    assert nested(17, keep=1).short


def test_a_draw_depends_on_the_seed_alone():
    assert np.array_equal(nested(5).rows, nested(5).rows)
    assert not np.array_equal(np.sort(nested(5).rows), np.sort(nested(5, seed=1).rows))


def test_every_image_is_drawn_equally_often():
    counts = np.zeros(len(LABELS))
    for seed in range(400):
        np.add.at(counts, nested(10, seed=seed).rows, 1)
    expected = 400 * 10 / np.bincount(LABELS)[LABELS]
    assert np.abs(counts - expected).max() < 5 * np.sqrt(100)


def test_draw_all_returns_every_image_once_class_by_class():
    rows = draw_all(LABELS).rows
    np.testing.assert_array_equal(LABELS[rows], np.sort(LABELS))
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(LABELS)))


def test_coop_draws_equal_python_s_random_calls():
    labels = np.array([2, 0, 2, 2, 0, 1])  # by hand: random.seed(1); random.sample([0, 2, 3], 2); sample([1, 4], 2)
    import random

    random.seed(1)
    expected = [*random.sample([0, 2, 3], 2), *random.sample([1, 4], 2), *random.choices([5], k=2)]
    drawn = draw_coop(labels, shots=2, seed=1)
    assert drawn.rows.tolist() == expected and drawn.short


@pytest.mark.skipif(not COOP.is_dir(), reason="the published lists of CoOp are not available")
@pytest.mark.parametrize("name", ["Caltech101", "DescribableTextures", "OxfordFlowers"])
def test_the_published_lists_are_reproduced(name):
    train = json.loads((COOP / f"split_zhou_{name}.json").read_text())["train"]
    published = json.loads((COOP / f"fewshot_{name}.json").read_text())
    labels = np.array([label for _, label, _ in train])
    for shots in (1, 2, 4, 8, 16):
        for seed in (1, 2, 3):
            drawn = [train[row][0] for row in draw_coop(labels, shots=shots, seed=seed).rows]
            assert drawn == published[f"shot_{shots}-seed_{seed}"]["train"]

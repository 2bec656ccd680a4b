"""Images and texts are paired by row, by id and by a table, and several texts are drawn once per epoch."""

import numpy as np
import pytest

from data.features.pairs import pair_ids, pair_rows, pair_table, swap_texts

SEED = 3


def texts_of(pairs):
    """Return the rows of the texts of each image row."""
    return {
        int(image): pairs.text_rows[start:stop].tolist()
        for image, start, stop in zip(pairs.image_rows, pairs.starts[:-1], pairs.starts[1:], strict=True)
    }


def test_rows_belong_together(said):
    assert texts_of(pair_rows(3, np.arange(3), num_rows=3)) == {0: [0], 1: [1], 2: [2]}
    assert "paired by row: 3 images with 3 texts" in said[-1]
    assert texts_of(pair_rows(2, np.array([1, 0, 1]), num_rows=2)) == {0: [1], 1: [0, 2]}
    with pytest.raises(ValueError, match=r"3 images but 4 rows of texts"):
        pair_rows(3, np.arange(4), num_rows=4)


def test_equal_ids_belong_together_and_the_rest_is_left_out(said):
    pairs = pair_ids(["a", "b", "c"], ["c", "a", "x", "a"])
    assert texts_of(pairs) == {0: [1, 3], 2: [0]}
    assert any("1 to 2 texts per image, one drawn per epoch" in line for line in said)
    assert any("1 images have no counterpart and are left out, such as 'b'" in line for line in said)
    assert any("1 texts have no counterpart and are left out, such as 'x'" in line for line in said)


def test_ids_that_do_not_match_or_occur_twice_are_refused():
    with pytest.raises(ValueError, match=r"no id in common: the first are 'a' and 'x'"):
        pair_ids(["a"], ["x"])
    with pytest.raises(ValueError, match=r"the id 'a' occurs more than once among the images"):
        pair_ids(["a", "b", "a"], ["a"])


def test_a_table_gives_several_texts_to_an_image_and_one_text_to_several_images():
    table = [("a", "t1"), ("b", "t0"), ("a", "t2"), ("b", "t1")]
    assert texts_of(pair_table(["a", "b", "c"], ["t0", "t1", "t2"], table, name="p")) == {0: [1, 2], 1: [0, 1]}
    with pytest.raises(ValueError, match=r"p names 1 text ids without features, such as 't9'"):
        pair_table(["a"], ["t0"], [("a", "t9")], name="p")
    with pytest.raises(ValueError, match=r"the id 't0' occurs more than once among the texts"):
        pair_table(["a"], ["t0", "t0"], [("a", "t0")], name="p")


def test_one_text_is_drawn_per_image_and_epoch():
    pairs = pair_ids(["a", "b"], ["a"] * 5 + ["b"])
    samples = np.array([0, 1, 0, 1])
    seen = set()
    for epoch in range(40):
        drawn = pairs.draw_texts(samples, np.full(4, epoch), seed=SEED)
        assert drawn[0] == drawn[2] and (drawn[1], drawn[3]) == (5, 5)
        seen.add(int(drawn[0]))
    assert seen == set(range(5))
    across = pairs.draw_texts(np.zeros(8, int), np.arange(8), seed=SEED)
    assert across.tolist() == [int(pairs.draw_texts(samples[:1], np.array([e]), seed=SEED)[0]) for e in range(8)]
    assert across.tolist() != pairs.draw_texts(np.zeros(8, int), np.arange(8), seed=SEED + 1).tolist()


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_wrong_texts_belong_to_other_images_and_are_the_same_for_a_seed(share, said):
    pairs = pair_ids([f"{row}" for row in range(40)], [f"{row // 2}" for row in range(80)])
    swapped = swap_texts(pairs, share, seed=SEED)
    wrong = swapped.text_rows != pairs.text_rows
    assert wrong.sum() == round(share * 80)
    owners = np.repeat(np.arange(40), 2)
    assert (owners[swapped.text_rows[wrong]] != owners[wrong]).all()
    np.testing.assert_array_equal(swapped.text_rows, swap_texts(pairs, share, seed=SEED).text_rows)
    assert (swapped.text_rows != swap_texts(pairs, share, seed=SEED + 1).text_rows).any()
    assert f"{wrong.sum()} of 80 texts are replaced by texts of other images, as wrong_texts={share:g} asks" in said[-1]


def test_without_wrong_texts_pairs_stay_and_one_image_cannot_have_any():
    pairs = pair_ids(["a"], ["a"])
    assert swap_texts(pairs, 0.0, seed=SEED) is pairs
    with pytest.raises(ValueError, match=r"wrong texts need at least two images with texts, but there are 1"):
        swap_texts(pairs, 0.5, seed=SEED)

"""Names that differ in any character have files that differ."""

import itertools

import numpy as np
import pytest

from foundation.files.distinct_names import distinct_names


@pytest.mark.parametrize(
    "names",
    [
        ["a/b", "a_b", "a b", "a-b", "a:b", "a,b"],
        ["Pets", "pets", "PETS"],
        ["x" * 99 + "yz", "x" * 99 + "yy", "x" * 300, "x" * 301],
        ["", "_", "?", "\ud83d"],
        ["naïve", "naive", "ﬁ", "fi", "ß", "ss"],
        ["a", "a-2", "b"],
        ["a", "a", "a", "a-2", "A"],
        ["a/b", "a_b", "a_b-c14cddc0"],
    ],
)
def test_names_stay_distinct(names):
    found = distinct_names(names)
    assert len({name.casefold() for name in found}) == len(names)
    assert all(len(name) <= 109 and not set(name) & set("/:?, ") for name in found)


def test_plain_names_are_kept_and_a_name_does_not_depend_on_the_order():
    assert distinct_names(["few_shot-pets", "gain-b.knn"]) == ["few_shot_pets", "gain_b.knn"]
    for names in itertools.permutations(["a/b", "a_b", "c d"]):
        assert dict(zip(names, distinct_names(names), strict=True)) == {
            "a/b": "a_b-c14cddc0",
            "a_b": "a_b-648fa9b3",
            "c d": "c_d",
        }


def test_repeated_names_are_numbered():
    assert distinct_names(["gain", "loss", "gain", "gain"]) == ["gain", "loss", "gain-2", "gain-3"]


def test_random_names_stay_distinct():
    rng = np.random.default_rng(0)
    alphabet = "ab_ -./\\AB%é\u2028"
    for _ in range(200):
        names = list({"".join(rng.choice(list(alphabet), rng.integers(0, 4))) for _ in range(30)})
        assert len({name.casefold() for name in distinct_names(names)}) == len(names)

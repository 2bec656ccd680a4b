"""Means by name never mix the values of two datasets."""

import pytest

from adapt.evaluation.summary import mean_scalars


def row(dataset, value, seed=0):
    return {
        "task": "few_shot",
        "dataset": dataset,
        "method": "knn",
        "shots": 4,
        "seed": seed,
        "question": "",
        "value": value,
    }


@pytest.mark.parametrize(
    "datasets",
    [
        ("a b", "a_b"),
        ("a,b", "a;b", "a b"),
        ("/x/pets", "/y/pets"),
        ("/x/pets", "pets"),
        ("x/a b", "y/a_b"),
        ("A", "a"),
    ],
)
def test_datasets_whose_names_differ_have_means_of_their_own(datasets):
    rows = [row(name, 10 * number + seed, seed) for number, name in enumerate(datasets) for seed in (0, 1)]
    means = mean_scalars(rows)
    assert list(means.values()) == [10 * number + 0.5 for number in range(len(datasets))]
    assert all(name.endswith("/knn@4") and "/" not in name.removesuffix("/knn@4") for name in means)


def test_the_mean_of_a_dataset_has_its_short_name():
    assert mean_scalars([row("/data/pets", 0.25), row("digits", 0.5)]) == {"pets/knn@4": 0.25, "digits/knn@4": 0.5}

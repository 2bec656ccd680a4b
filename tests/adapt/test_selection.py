"""Leave-one-out and the choice of settings, against refits in float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapt
from adapt.adapter import Support, check_support
from adapt.selection import grid_accuracy, grid_settings, leave_one_out, leave_one_out_accuracy
from tests.adapt import references

FEATURES, LABELS, TEXT, _ = references.example()
SUPPORT = check_support(FEATURES, LABELS, class_text_features=TEXT)
accuracy_alone = jax.jit(leave_one_out_accuracy)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("zero_shot", {}),
        ("prototypes", {"text_weight": 0.3}),
        ("prototypes", {"centering": "cl2n"}),
        ("knn", {"k": 3}),
        ("knn", {"k": 100, "votes": "rank"}),
        ("tip_adapter", {"alpha": 30.0}),
    ],
)
def test_leave_one_out_equals_refits_without_the_row(name, settings):
    ours = jax.jit(leave_one_out)(adapt.create(name, **settings), SUPPORT)
    for row in range(len(LABELS)):
        others = np.delete(FEATURES, row, 0), np.delete(LABELS, row)
        theirs = references.logits(name, settings, *others, TEXT, FEATURES[row][None])[0]
        np.testing.assert_allclose(ours[row], theirs, atol=1e-5 * np.abs(theirs).max(), err_msg=f"row {row}")


def test_more_rows_than_are_done_at_once_are_all_left_out():
    features, labels = np.random.default_rng(0).normal(size=(70, 7)), np.arange(70) % 6
    ours = jax.jit(leave_one_out)(adapt.create("knn"), check_support(features, labels))
    for row in (0, 63, 64, 69):
        others = np.delete(features, row, 0), np.delete(labels, row)
        theirs = references.logits("knn", {}, *others, TEXT, features[row][None])[0]
        np.testing.assert_allclose(ours[row], theirs, atol=1e-5 * theirs.max())


def test_rows_that_are_not_there_do_not_count():
    padded = Support(
        jnp.concatenate([SUPPORT.features, SUPPORT.features[:4]]),
        jnp.concatenate([SUPPORT.labels, jnp.full(4, -1)]),
        SUPPORT.class_text_features,
        SUPPORT.logit_scale,
        num_classes=6,
    )
    assert accuracy_alone(adapt.create("knn"), padded) == accuracy_alone(adapt.create("knn"), SUPPORT)


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("zero_shot", {}),
        ("prototypes", {"centering": ("l2", "cl2n"), "text_weight": (0.0, 0.5)}),
        ("knn", {"k": (5, 1), "temperature": (0.07, 0.5)}),
        ("tip_adapter", {"alpha": (1.0, 300.0), "beta": (5.5, 1.0, 40.0)}),
    ],
)
def test_accuracies_of_a_grid_are_those_of_each_setting_alone(name, grid):
    settings = grid_settings(grid)
    together = grid_accuracy(adapt.find(name), settings, SUPPORT)
    alone = [accuracy_alone(adapt.create(name, **values), SUPPORT) for values in settings]
    np.testing.assert_array_equal(together, alone)
    assert len(settings) == np.prod([len(values) for values in grid.values()])


def test_the_best_setting_is_chosen():
    features = [[1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4], [0.1, 1], [0.2, 1]]
    support = check_support(features, [0, 0, 0, 0, 1, 1])
    chosen = adapt.select(adapt.find("knn"), support, grid={"k": (5, 1), "votes": ("plurality",)})
    assert chosen.settings == [{"k": 5, "votes": "plurality"}, {"k": 1, "votes": "plurality"}]
    np.testing.assert_allclose(chosen.accuracy, [4 / 6, 1.0])
    assert chosen.adapter == adapt.create("knn", k=1, votes="plurality")


@pytest.mark.parametrize("weights", [(0.0, 0.1), (0.1, 0.0)])
def test_of_equals_the_first_is_chosen(weights):
    support = check_support(np.repeat(np.eye(3), 2, 0), np.arange(6) // 2, class_text_features=np.eye(3))
    chosen = adapt.select(adapt.find("prototypes"), support, grid={"text_weight": weights})
    np.testing.assert_array_equal(chosen.accuracy, [1.0, 1.0])
    assert chosen.adapter == adapt.create("prototypes", text_weight=weights[0])


@pytest.mark.parametrize("name", adapt.METHODS)
def test_at_one_example_a_class_the_defaults_are_chosen(name):
    support = check_support(np.eye(4, 5), [2, 0, 1, 3], class_text_features=TEXT[:4, :5])
    chosen = adapt.select(adapt.find(name), support)
    assert chosen.adapter == adapt.create(name)
    assert np.isnan(chosen.accuracy).all() and len(chosen.accuracy) == len(chosen.settings)

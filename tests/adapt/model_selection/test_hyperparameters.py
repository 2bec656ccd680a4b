"""Leave-one-out and the choice of settings against refits in float64 loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapt
from adapt.adapters.support import FOLDS, Support, make_support, over_fold_rows
from adapt.model_selection.hyperparameters import Grid
from tests.adapt.adapters import references

FEATURES, LABELS, TEXT, _ = references.example()
KEY = jax.random.key(0)
CLOSED = [
    ("zero_shot", {}),
    *(("prototypes", {"centering": c, "text_weight": w}) for c in ("l2", "cl2n", "raw") for w in (0.0, 0.3, 1.0)),
    ("knn", {"k": 3}),
    ("knn", {"k": 100, "votes": "rank"}),
    ("tip_adapter", {"alpha": 30.0}),
    ("tip_adapter", {"alpha": 30.0, "class_weight": "none"}),
    ("tip_x", {"gamma": 20.0, "temperature": 0.1}),
    ("tip_x", {"gamma": 20.0, "class_weight": "none"}),
    ("gda", {}),
    ("gda", {"alpha": 1.0}),
    ("proker", {"beta": 1.0, "ridge": 0.1}),
    ("proker", {"beta": 5.5, "ridge": 3.0}),
    ("local", {}),
    ("local", {"inner": "gda", "alpha": 1.0, "rbf": -3.0, "damp": 0.7}),
]
SMALL = {  # grids whose programs compile quickly
    "prototypes": {"centering": ("l2", "cl2n"), "text_weight": (0.0, 0.5)},
    "knn": {"k": (5, 1), "temperature": (0.07, 0.5)},
    "tip_adapter": {"alpha": (1.0, 300.0), "beta": (5.5, 1.0, 40.0)},
    "tip_x": {"gamma": (1.0, 30.0), "alpha": (1.0, 300.0), "beta": (5.5, 1.0)},
    "ape": {"channels": (0.7, 0.4), "alpha": (1.0, 300.0)},
    "gda": {"alpha": (0.03, 0.001, 100.0)},
    "proker": {"ridge": (0.1, 1.0), "beta": (2.5, 10.0)},
    "local": {"alpha": (1.0, 300.0), "rbf": (-16.0, -1.0)},
}


@jax.jit
def leave_one_out(adapter, support):
    return adapter.logits(adapter.leave_one_out(support, key=KEY))


@jax.jit
def leave_fold_out(adapter, support):
    return adapter.logits(adapter.leave_fold_out(support, key=KEY))


def loops(name, settings, features, labels, text, classes=6):
    """Return the logits of every row by the float64 loops fitted without it."""
    rows = []
    for row in range(len(labels)):
        others = np.delete(features, row, 0), np.delete(labels, row)
        rows.append(references.logits(name, settings, *others, text, features[row][None], num_classes=classes)[0])
    return np.stack(rows)


def assert_rows_equal(ours, theirs):
    scale = np.maximum(np.abs(theirs).max(axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [(*case, TEXT) for case in CLOSED] + [(*case, None) for case in CLOSED if not adapt.find(case[0]).needs_text],
)
def test_leave_one_out_equals_refits_without_the_row(name, settings, text):
    support = make_support(FEATURES, LABELS, class_text_features=text, num_classes=6)
    assert_rows_equal(
        leave_one_out(adapt.create(name, **settings), support), loops(name, settings, FEATURES, LABELS, text)
    )


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 0], [0, 1, 2, 3], [0, 0, 0, 0, 1, 2]])
@pytest.mark.parametrize("name", [name for name in adapt.METHODS if adapt.create(name).closed_form])
def test_leave_one_out_of_the_smallest_support_sets_equals_refits(name, labels):
    features, labels = FEATURES[: len(labels)], np.array(labels)
    support = make_support(features, labels, class_text_features=TEXT)
    assert_rows_equal(leave_one_out(adapt.create(name), support), loops(name, {}, features, labels, TEXT))


def test_leave_one_out_in_several_blocks_equals_refits():
    features, labels = np.random.default_rng(0).normal(size=(4500, 7)), np.arange(4500) % 6
    for name in ("knn", "tip_adapter"):
        ours = leave_one_out(adapt.create(name), make_support(features, labels))
        for row in (0, 3727, 3728, 4499):
            others = np.delete(features, row, 0), np.delete(labels, row)
            theirs = references.logits(name, {}, *others, None, features[row][None])[0]
            np.testing.assert_allclose(ours[row], theirs, atol=1e-5 * theirs.max())


@pytest.mark.parametrize("name", ["ape", "gda", "proker", "tip_adapter"])
def test_leave_fold_out_equals_refits_without_the_fold(name):
    support = make_support(FEATURES, LABELS, class_text_features=TEXT)
    ours = leave_fold_out(adapt.create(name), support)
    seen, fold = dict.fromkeys(range(6), 0), []
    for label in LABELS:
        fold.append(seen[label] % FOLDS)
        seen[label] += 1
    for row, number in enumerate(fold):
        kept = np.not_equal(fold, number)
        theirs = references.logits(name, {}, FEATURES[kept], LABELS[kept], TEXT, FEATURES[row][None])
        assert_rows_equal(ours[row][None], theirs)


@pytest.mark.parametrize("seed", range(4))
def test_folds_of_uneven_and_padded_support_sets_lose_no_row(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(-1, 5), [seed, *rng.integers(0, 8, 4), 3]))
    support = Support(jnp.zeros((len(labels), 2)), jnp.asarray(labels), None, jnp.float32(1), num_classes=5)

    def terms_of(fold):
        others = jnp.zeros(len(labels)).at[fold.others].add(1, mode="drop")
        return fold.rows[:, None], jnp.tile(others, (len(fold.rows), 1))

    rows, others = over_fold_rows(terms_of, support)
    present, folds = labels >= 0, np.asarray(support.folds)
    np.testing.assert_array_equal(rows[present, 0], np.flatnonzero(present))
    np.testing.assert_array_equal(others[present], (present & (folds[:, None] != folds))[present])


@pytest.mark.slow
@pytest.mark.parametrize("name", adapt.TRAINING_FREE)
def test_padding_does_not_change_leave_one_out_and_accuracies(name):
    support = make_support(FEATURES, LABELS, class_text_features=TEXT)
    padded = Support(
        jnp.concatenate([support.features[:9], support.features[:4], support.features[9:]]),
        jnp.concatenate([support.labels[:9], jnp.full(4, -1), support.labels[9:]]),
        support.class_text_features,
        support.logit_scale,
        num_classes=6,
    )
    kept = np.delete(np.arange(len(LABELS) + 4), [9, 10, 11, 12])
    assert_rows_equal(
        leave_one_out(adapt.create(name), padded)[kept], np.asarray(leave_one_out(adapt.create(name), support))
    )
    grid = Grid(name, SMALL.get(name, {}))
    np.testing.assert_allclose(grid.accuracy(padded, key=KEY), grid.accuracy(support, key=KEY))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "leave_out"), [(name, out) for name in SMALL for out in ("one", "fold") if out == "fold" or name != "ape"]
)
def test_grid_accuracies_equal_those_of_single_settings(name, leave_out):
    chosen = adapt.select(name, FEATURES, LABELS, class_text_features=TEXT, grid=SMALL[name], leave_out=leave_out)
    support = make_support(FEATURES, LABELS, class_text_features=TEXT)
    alone = []
    for settings in chosen.settings:
        predict = leave_one_out if leave_out == "one" else leave_fold_out
        predicted = np.argmax(predict(adapt.create(name, **settings), support), axis=1)
        alone.append(np.mean(predicted == LABELS))
    np.testing.assert_allclose(chosen.accuracy, alone)
    assert len(chosen.settings) == np.prod([len(values) for values in SMALL[name].values()])
    assert chosen.adapter == adapt.create(name, **chosen.settings[int(np.argmax(alone))])


@pytest.mark.parametrize("name", SMALL)
def test_apply_in_a_compiled_function_uses_the_setting_at_the_index(name):
    grid, support = Grid(name, SMALL[name]), make_support(FEATURES, LABELS, class_text_features=TEXT)
    compiled = jax.jit(lambda chosen: grid.apply(chosen, lambda adapter: adapter.fit_support(support)(FEATURES)))
    for chosen, settings in enumerate(grid.settings):
        alone = adapt.create(name, **settings).fit(FEATURES, LABELS, class_text_features=TEXT)(FEATURES)
        np.testing.assert_allclose(compiled(chosen), alone, atol=1e-5 * np.abs(alone).max())


def test_select_chooses_the_most_accurate_setting():
    features = [[1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4], [0.1, 1], [0.2, 1]]
    chosen = adapt.select("knn", features, [0, 0, 0, 0, 1, 1], grid={"k": (5, 1)}, votes="plurality")
    assert chosen.settings == [{"k": 5}, {"k": 1}]
    np.testing.assert_allclose(chosen.accuracy, [4 / 6, 1.0])
    assert chosen.adapter == adapt.create("knn", k=1, votes="plurality")
    assert chosen.selected_by == "leave-one-out on the support"
    assert adapt.select("gda", features, [0, 0, 0, 0, 1, 1]).selected_by == "4-fold cross-validation on the support"


@pytest.mark.parametrize("name", ["gda", "proker"])
def test_select_lets_examples_outweigh_unrelated_class_texts(name):
    rng = np.random.default_rng(0)
    means = rng.normal(size=32) / 6 + 0.08 * rng.normal(size=(4, 32))
    support_labels, labels = np.repeat(np.arange(4), 16), np.repeat(np.arange(4), 200)
    support, queries = (means[y] + 0.1 * rng.normal(size=(len(y), 32)) for y in (support_labels, labels))
    accuracies = []
    for text in (None, rng.normal(size=(4, 32))):
        chosen = adapt.select(name, support, support_labels, class_text_features=text).adapter
        classifier = chosen.fit(support, support_labels, class_text_features=text)
        accuracies.append(float(np.mean(np.argmax(classifier(queries), axis=1) == labels)))
    assert accuracies[1] > accuracies[0] - 0.03 > 0.9


@pytest.mark.parametrize("weights", [(0.0, 0.1), (0.1, 0.0)])
def test_select_chooses_the_first_of_equally_accurate_settings(weights):
    examples = np.repeat(np.eye(3), 2, 0), np.arange(6) // 2
    grid = {"text_weight": weights}
    chosen = adapt.select("prototypes", *examples, class_text_features=np.eye(3), grid=grid)
    np.testing.assert_array_equal(chosen.accuracy, [1.0, 1.0])
    assert chosen.adapter == adapt.create("prototypes", text_weight=weights[0])


@pytest.mark.parametrize("name", adapt.METHODS)
def test_select_with_one_example_per_class_returns_the_defaults(name):
    chosen = adapt.select(name, np.eye(4, 5), [2, 0, 1, 3], class_text_features=TEXT[:4, :5])
    assert chosen.adapter == adapt.create(name)
    assert chosen.selected_by == "defaults"
    assert np.isnan(chosen.accuracy).all() and len(chosen.accuracy) == len(chosen.settings)


def test_invalid_grids_raise():
    examples = np.eye(4, 5), [0, 0, 1, 1]
    with pytest.raises(ValueError, match="unknown knn setting 'n'"):
        adapt.select("knn", *examples, grid={"n": (1,)})
    with pytest.raises(ValueError, match="the grid of knn has no values for k"):
        adapt.select("knn", *examples, grid={"k": ()})
    with pytest.raises(ValueError, match="k 0 is less than 1"):
        adapt.select("knn", *examples, grid={"k": (5, 0)})
    for grid, message in [
        ({"k": 3}, "the values 3 of k in the grid of knn are not a list"),
        ({"votes": "rank"}, "the values 'rank' of votes"),
        (["k"], "is not a mapping from settings to lists of values"),
    ]:
        with pytest.raises(ValueError, match=message):
            adapt.select("knn", *examples, grid=grid)
    with pytest.raises(ValueError, match="k is both fixed and in the grid of knn"):
        adapt.select("knn", *examples, grid={"k": (1, 2)}, k=3)
    with pytest.raises(ValueError, match="local has no closed form"):
        inner = {"inner": ("ape", "tip_adapter")}
        adapt.select("local", *examples, class_text_features=np.eye(2, 5), grid=inner, leave_out="one")
    given = adapt.select("knn", np.eye(4, 5), [0, 1, 2, 3], grid={"k": (3, 1)})
    assert (given.adapter.k, given.selected_by) == (3, "the first of the grid")
    with pytest.raises(ValueError, match=r"unknown leave_out 'two'\. Known: one, fold"):
        adapt.select("knn", *examples, leave_out="two")
    with pytest.raises(ValueError, match="ape has no closed form for leaving out one"):
        adapt.select("ape", *examples, class_text_features=np.eye(2, 5), leave_out="one")
    with pytest.raises(ValueError, match="TipX needs class_text_features"):
        adapt.select("tip_x", *examples)


def test_support_without_a_row_marks_it_as_padding():
    support = make_support(FEATURES, LABELS, class_text_features=TEXT)
    less = support.without(jnp.arange(len(LABELS)) == 3)
    assert less.labels[3] == -1 and (np.delete(less.labels, 3) == np.delete(LABELS, 3)).all()
    assert dataclasses.replace(less, labels=support.labels).features is support.features


def test_a_selection_has_the_best_parameters_their_score_and_a_table_of_trials():
    chosen = adapt.select("tip_adapter", FEATURES, LABELS, class_text_features=TEXT, grid=SMALL["tip_adapter"])
    table = chosen.trials
    assert [{key: row[key] for key in row if key != "score"} for row in table] == chosen.settings
    assert chosen.best_score == max(row["score"] for row in table)
    assert adapt.create("tip_adapter", **chosen.best_params) == chosen.adapter
    assert repr(chosen).count("\n") == 0 and f"{len(table)} tried" in repr(chosen)
    without = adapt.select("knn", np.eye(4, 5), [0, 1, 2, 3])
    assert without.best_params == without.settings[0] and np.isnan(without.best_score)

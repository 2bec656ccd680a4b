"""Adapters against float64 loops, and what holds for all of them."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapt
from adapt.adapters.registry import TRANSDUCTIVE
from adapt.adapters.support import Support, make_support
from tests.adapt.adapters import references

VARIANTS = [
    ("zero_shot", {}),
    *(("prototypes", {"centering": c, "text_weight": w}) for c in ("l2", "cl2n", "raw") for w in (0.0, 0.3, 1.0)),
    *(("knn", {"votes": v, "k": k}) for v in ("softmax", "plurality", "distance", "rank") for k in (1, 3, 100)),
    ("knn", {"temperature": 0.2}),
    ("tip_adapter", {}),
    ("tip_adapter", {"alpha": 30.0, "beta": 1.0}),
    ("tip_x", {}),
    ("tip_adapter", {"alpha": 30.0, "class_weight": "none"}),
    ("tip_x", {"gamma": 20.0, "temperature": 0.1}),
    ("tip_x", {"gamma": 20.0, "class_weight": "none"}),
    ("ape", {}),
    ("ape", {"channels": 0.4, "gamma": 0.5}),
    ("ape", {"alpha": 30.0, "class_weight": "none"}),
    ("gda", {}),
    ("gda", {"alpha": 1.0}),
    ("proker", {}),
    ("proker", {"beta": 5.5, "ridge": 1.0}),
    ("ss_text", {}),
    ("ss_text", {"constraint": 0.3, "repel": 1.0}),
    ("ss_text", {"constraint": 7.0, "penalty": "constant"}),
    ("local", {}),
    ("local", {"inner": "gda", "alpha": 1.0, "rbf": -3.0, "damp": 0.7}),
    ("local", {"inner": "prototypes", "centering": "cl2n", "rbf": -0.5}),
]
NEEDS_TEXT = [name for name, method in adapt.METHODS.items() if method.needs_text]
FEATURES, LABELS, TEXT, QUERIES = references.example()


def fit(name, settings, features=FEATURES, labels=LABELS, text=TEXT, **more):
    return adapt.create(name, **settings).fit(features, labels, class_text_features=text, **more)


def assert_equal(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@jax.jit
def fit_and_apply(adapter, support, queries):
    return adapter.fit_support(support)(queries)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_logits_equal_float64_loops(name, settings):
    ours = fit(name, settings, logit_scale=30.0)(QUERIES)
    assert ours.dtype == jnp.float32
    assert_equal(ours, references.logits(name, settings, FEATURES, LABELS, TEXT, QUERIES, scale=30.0))


@pytest.mark.parametrize(("name", "settings"), [variant for variant in VARIANTS if variant[0] not in NEEDS_TEXT])
def test_logits_without_text_equal_float64_loops(name, settings):
    ours = fit(name, settings, text=None, num_classes=6, logit_scale=30.0)(QUERIES)
    assert_equal(ours, references.logits(name, settings, FEATURES, LABELS, None, QUERIES, scale=30.0, num_classes=6))


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "shots"), [(2, 1), (2, 64), (3, 5), (100, 3), (1000, 1)])
@pytest.mark.parametrize("name", adapt.TRAINING_FREE)
def test_logits_equal_float64_loops_for_many_sizes(name, classes, shots):
    if name in ("tip_x", "ape") and classes == 1000:
        classes, shots = 40, 2  # their loops take minutes
    features, labels, text, queries = references.large_example(classes, shots)
    ours = fit(name, {}, features, labels, text)(queries)
    assert_equal(ours, references.logits(name, {}, features, labels, text, queries))


@pytest.mark.parametrize("name", adapt.TRAINING_FREE)
def test_a_single_example_and_identical_examples_give_finite_logits(name):
    for labels in ([0], [0, 0, 0], [0, 1, 1]):
        features = np.repeat(FEATURES[:1], len(labels), axis=0)
        assert np.isfinite(fit(name, {}, features, labels, TEXT[:2])(QUERIES)).all()


def test_gda_with_fewer_examples_than_dimensions_equals_float64_loops():
    features, labels, text, queries = references.large_example(5, 4, dim=300)
    ours = fit("gda", {}, features, labels, text)(queries)
    assert_equal(ours, references.logits("gda", {}, features, labels, text, queries))


def test_ss_text_is_the_minimum_of_its_loss():
    x, text = references.unit(FEATURES), references.unit(TEXT)
    counts, classes = np.bincount(LABELS, minlength=6), sorted(set(LABELS))
    vectors = np.asarray(fit("ss_text", {"constraint": 0.7}, logit_scale=30.0).state["vectors"], np.float64)

    def loss(v):
        fitted = np.mean([30 * s @ v[y] for s, y in zip(x, LABELS, strict=True)])
        return sum(0.7 / counts[c] * np.sum((v[c] - text[c]) ** 2) for c in classes) / 2 - fitted

    # The classifier keeps only the direction of V_c; the best length along it must leave no gradient.
    lengths = [(30 * counts[c] / (len(x) * 0.7) * x[c == LABELS].sum(axis=0) + text[c]) @ vectors[c] for c in range(6)]
    best, step = np.array(lengths)[:, None] * vectors, 1e-4
    for place in np.ndindex(5, 7):
        moved = np.zeros_like(best)
        moved[classes[place[0]], place[1]] = step
        assert abs(loss(best + moved) - loss(best - moved)) / (2 * step) < 1e-5


def test_ss_text_keeps_a_rare_class_nearer_to_its_text():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [1, 15])
    features, text = rng.normal(size=(16, 7)), rng.normal(size=(2, 7))
    vectors = fit("ss_text", {}, features, labels, text).state["vectors"]
    means = references.unit([references.unit(features)[labels == c].mean(axis=0) for c in (0, 1)])
    away = 1 - np.sum(vectors * means, axis=1)
    assert away[0] > 100 * away[1]


@pytest.mark.parametrize("name", adapt.TRAINING_FREE)
def test_logits_do_not_depend_on_the_length_of_the_features(name):
    rng = np.random.default_rng(1)
    features, text, queries = (v * 10 ** rng.uniform(-3, 3, (len(v), 1)) for v in (FEATURES, TEXT, QUERIES))
    plain = fit(name, {}, references.unit(FEATURES), text=references.unit(TEXT))(references.unit(QUERIES))
    assert_equal(fit(name, {}, features, text=text)(queries), plain)


@pytest.mark.parametrize(("name", "settings"), VARIANTS[::2])
def test_padding_does_not_change_logits(name, settings):
    support = make_support(FEATURES, LABELS, class_text_features=TEXT)
    rows = np.delete(np.arange(len(LABELS) + 4), [0, 7, 8, 20])
    features = jnp.asarray(references.unit(np.resize(QUERIES, (len(LABELS) + 4, 7))), jnp.float32)
    padded = Support(
        features.at[rows].set(support.features),
        jnp.full(len(LABELS) + 4, -1).at[rows].set(support.labels),
        support.class_text_features,
        support.logit_scale,
        num_classes=6,
    )
    adapter = adapt.create(name, **settings)
    assert_equal(fit_and_apply(adapter, padded, QUERIES), fit_and_apply(adapter, support, QUERIES))


@pytest.mark.parametrize("name", adapt.TRAINING_FREE)
def test_vmap_over_support_sets_equals_single_fits(name):
    supports = [
        make_support(FEATURES, np.roll(LABELS, shift), class_text_features=np.roll(TEXT, shift)) for shift in range(3)
    ]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *supports)
    together = jax.vmap(fit_and_apply, in_axes=(None, 0, None))(adapt.create(name), stack, QUERIES)
    for logits, support in zip(together, supports, strict=True):
        assert_equal(logits, fit_and_apply(adapt.create(name), support, QUERIES))


@pytest.mark.parametrize("name", [name for name in adapt.METHODS if name not in ("knn", "llu", *TRANSDUCTIVE)])
def test_a_class_without_examples_keeps_its_zero_shot_logit(name):
    scaled = 100 * references.unit(QUERIES) @ references.unit(TEXT)[4]
    np.testing.assert_allclose(fit(name, {})(QUERIES)[:, 4], scaled, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in adapt.METHODS if name not in NEEDS_TEXT])
def test_without_text_a_class_without_examples_is_never_predicted(name):
    logits = fit(name, {}, text=None, num_classes=7)(QUERIES)
    assert not np.isin(np.argmax(logits, axis=1), [4, 6]).any()


@pytest.mark.parametrize("cosines", [[0.92, 0.93, 0.95], [0.5, 0.9, 0.5, 0.91, 0.91, 0.5]])
def test_knn_breaks_ties_in_favour_of_the_nearest_example(cosines):
    features = [[c, np.sqrt(1 - c * c)] for c in cosines]
    labels = np.arange(len(cosines)) % 3
    expected = labels[np.argmax(cosines)]
    assert fit("knn", {"votes": "plurality", "k": 6}, features, labels, None)([[1.0, 0.0]]).argmax() == expected


def test_num_classes_comes_from_the_texts_or_the_argument_or_the_labels():
    assert fit("knn", {})(QUERIES).shape == (11, 6)
    assert fit("knn", {}, text=None, num_classes=9)(QUERIES).shape == (11, 9)
    assert fit("prototypes", {}, labels=np.minimum(LABELS, 3), text=None)(QUERIES).shape == (11, 4)


@pytest.mark.parametrize("name", adapt.TRAINING_FREE)
def test_blocks_of_queries_give_the_same_logits(name):
    queries = np.random.default_rng(0).normal(size=(20_001, 7))
    classifier = fit(name, {}, np.tile(FEATURES, (40, 1)), np.tile(LABELS, 40))
    logits = classifier(queries)
    assert logits.shape == (20_001, 6)
    for rows in (slice(0, 50), slice(18_200, 18_250), slice(-50, None)):
        assert_equal(logits[rows], classifier(queries[rows]))


def test_vmap_over_settings_equals_single_fits():
    alphas = jnp.array([1.0, 3.0, 10.0])
    support = make_support(FEATURES, LABELS, class_text_features=TEXT)
    together = jax.vmap(lambda alpha: adapt.create("gda", alpha=alpha).fit_support(support)(QUERIES))(alphas)
    for logits, alpha in zip(together, alphas, strict=True):
        assert_equal(logits, fit("gda", {"alpha": float(alpha)})(QUERIES))


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name in adapt.TRAINING_FREE for text in (True, False) if text or name not in NEEDS_TEXT],
)
def test_extend_equals_a_fit_on_all_examples(name, text):
    some = LABELS < 3
    classes = int(LABELS[some].max()) + 1
    classifier = fit(name, {}, FEATURES[some], LABELS[some], TEXT[:classes] if text else None)
    extended = classifier.extend(FEATURES[~some], LABELS[~some], class_text_features=TEXT[classes:] if text else None)
    ordered = np.concatenate([FEATURES[some], FEATURES[~some]]), np.concatenate([LABELS[some], LABELS[~some]])
    whole = fit(name, {}, *ordered, TEXT if text else None)
    assert extended.support.num_classes == whole.support.num_classes == 6
    assert_equal(extended(QUERIES), whole(QUERIES))
    again = extended.extend(FEATURES[:2], LABELS[:2])
    assert_equal(again(QUERIES), whole.extend(FEATURES[:2], LABELS[:2])(QUERIES))


def test_methods_describes_all_and_grids_start_with_the_defaults():
    described = adapt.methods()
    assert list(described) == list(adapt.METHODS)
    for name, method in described.items():
        assert set(method) == {"training_free", "transductive", "local", "needs_text", "settings"}
        assert adapt.create(name, **method["settings"]) == adapt.create(name)
        assert all(
            method["settings"][key] == values[0]
            for key, values in adapt.create(name).grid.items()
            if key in method["settings"]
        )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("labels", [[0, 0, 1, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3]])
def test_gda_leave_one_out_without_remaining_spread_has_no_rounding_error(labels, seed):
    features = np.random.default_rng(seed).normal(size=(len(labels), 64))
    features[3::2] = features[2:-1:2] if len(labels) == 8 else features[3::2]  # all classes but 0 are duplicates
    support, adapter = make_support(features, np.array(labels)), adapt.create("gda", alpha=1.0)
    ours = jax.jit(lambda adapter, support: adapter.logits(adapter.leave_one_out(support, key=None)))(adapter, support)
    for row in range(len(labels)):
        others = np.delete(features, row, 0), np.delete(labels, row)
        theirs = references.logits("gda", {"alpha": 1.0}, *others, None, features[row][None], num_classes=4)[0]
        np.testing.assert_allclose(ours[row], theirs, atol=1e-4 * np.abs(theirs).max())


def test_knn_votes_with_a_small_temperature_do_not_underflow():
    votes = fit("knn", {"temperature": 1e-4, "k": 1})(QUERIES)
    nearest = LABELS[np.argmax(references.unit(QUERIES) @ references.unit(FEATURES).T, axis=1)]
    np.testing.assert_array_equal(np.argmax(votes, axis=1), nearest)


def test_extend_adds_a_class_by_its_text_alone():
    extended = fit("tip_adapter", {}).extend(FEATURES[:0], LABELS[:0], class_text_features=QUERIES[:1])
    expected = 100 * references.unit(QUERIES) @ references.unit(QUERIES[0])
    np.testing.assert_allclose(extended(QUERIES)[:, 6], expected, atol=1e-4)
    with pytest.raises(ValueError, match="the support set is empty"):
        extended.extend(FEATURES[:0], LABELS[:0])


def test_predict_and_predict_proba_are_argmax_and_softmax_of_the_logits():
    classifier = fit("gda", {})
    logits = np.asarray(classifier(QUERIES), np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.predict_proba(QUERIES), expected, atol=1e-6)
    np.testing.assert_array_equal(classifier.predict(QUERIES), logits.argmax(axis=1))
    with pytest.raises(ValueError, match="row 0 of the query features is not finite"):
        classifier.predict(QUERIES * np.nan)


def test_an_adapter_with_the_former_method_names_works_with_a_warning(said):
    from adapt.adapters.base import Adapter, over_folds, pytree

    @pytree
    class FormerNames(Adapter):
        weight: float = 2.0
        weights = ("weight",)

        def learn(self, support, *, key, start=None):
            return {"means": support.members.T @ support.features}

        def terms(self, state, support, x):
            return support.zero_shot(x), x @ state["means"].T

        def left_out(self, support, *, key):
            return over_folds(lambda rest: self.terms(self.learn(rest, key=key), rest, support.features), support)

    assert "Adapter.terms was renamed to Adapter.logit_terms" in "\n".join(said)
    adapter, support = FormerNames(), make_support(FEATURES, LABELS, class_text_features=TEXT)
    classifier = adapter.fit(FEATURES, LABELS, class_text_features=TEXT)
    sums = np.eye(6)[LABELS].T @ references.unit(FEATURES)
    unit = references.unit(QUERIES)
    assert_equal(classifier(QUERIES), 100 * unit @ references.unit(TEXT).T + 2 * unit @ sums.T)
    assert adapter.closed_form and adapter.weights == adapter.term_weights == ("weight",)
    by_folds = adapter.leave_fold_out(support, key=None)
    jax.tree.map(np.testing.assert_array_equal, adapter.leave_one_out(support, key=None), by_folds)
    with pytest.raises(AttributeError, match="FormerNames has no attribute 'wieght'"):
        adapter.wieght  # noqa: B018


def test_an_adapter_without_leave_one_out_has_no_closed_form():
    assert not adapt.create("ape").closed_form and not adapt.create("local", inner="ape").closed_form
    assert adapt.create("gda").closed_form and adapt.create("local").closed_form


def test_importing_adapt_brings_in_nothing_heavy_and_names_are_imported_on_first_use():
    heavy = ["numpy", "jax", "flax", "optax", "scipy", "sklearn", "transformers", "PIL", "matplotlib"]
    code = f"""import sys, adapt
print([name for name in {heavy} if name in sys.modules])
adapt.create("tip_adapter")
print([name for name in {heavy[-4:]} + ["flax", "adapt.embedding.encoder"] if name in sys.modules])
print(adapt.Encoder.__name__)"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n[]\nEncoder\n"
    assert all(hasattr(adapt, name) and name in adapt.__doc__ and name in dir(adapt) for name in adapt.__all__)
    with pytest.raises(AttributeError, match="module 'adapt' has no attribute 'Decoder'"):
        adapt.Decoder  # noqa: B018

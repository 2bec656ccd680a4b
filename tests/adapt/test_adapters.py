"""The adapters against float64 loops, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapt
from adapt.adapter import Support, check_support
from tests.adapt import references

VARIANTS = [
    ("zero_shot", {}),
    *(("prototypes", {"centering": c, "text_weight": w}) for c in ("l2", "cl2n") for w in (0.0, 0.3, 1.0)),
    *(("knn", {"votes": v, "k": k}) for v in ("softmax", "plurality", "distance", "rank") for k in (1, 3, 100)),
    ("knn", {"temperature": 0.2}),
    ("tip_adapter", {}),
    ("tip_adapter", {"alpha": 30.0, "beta": 1.0}),
]
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


@pytest.mark.parametrize("name", adapt.METHODS)
def test_lengths_of_vectors_do_not_matter(name):
    rng = np.random.default_rng(1)
    features, text, queries = (v * 10 ** rng.uniform(-3, 3, (len(v), 1)) for v in (FEATURES, TEXT, QUERIES))
    plain = fit(name, {}, references.unit(FEATURES), text=references.unit(TEXT))(references.unit(QUERIES))
    assert_equal(fit(name, {}, features, text=text)(queries), plain)


@pytest.mark.parametrize(("name", "settings"), VARIANTS[::2])
def test_rows_that_are_not_there_change_nothing(name, settings):
    support = check_support(FEATURES, LABELS, class_text_features=TEXT)
    there = np.delete(np.arange(len(LABELS) + 4), [0, 7, 8, 20])
    features = jnp.asarray(references.unit(np.resize(QUERIES, (len(LABELS) + 4, 7))), jnp.float32)
    padded = Support(
        features.at[there].set(support.features),
        jnp.full(len(LABELS) + 4, -1).at[there].set(support.labels),
        support.class_text_features,
        support.logit_scale,
        num_classes=6,
    )
    adapter = adapt.create(name, **settings)
    assert_equal(fit_and_apply(adapter, padded, QUERIES), fit_and_apply(adapter, support, QUERIES))


@pytest.mark.parametrize("name", adapt.METHODS)
def test_supports_can_be_mapped_over(name):
    supports = [
        check_support(FEATURES, np.roll(LABELS, shift), class_text_features=np.roll(TEXT, shift)) for shift in range(3)
    ]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *supports)
    together = jax.vmap(fit_and_apply, in_axes=(None, 0, None))(adapt.create(name), stack, QUERIES)
    for logits, support in zip(together, supports, strict=True):
        assert_equal(logits, fit_and_apply(adapt.create(name), support, QUERIES))


def test_a_class_without_examples_keeps_its_text_and_gets_no_vote():
    scaled = 100 * references.unit(QUERIES) @ references.unit(TEXT)[4]
    for name in ("zero_shot", "prototypes", "tip_adapter"):
        np.testing.assert_allclose(fit(name, {})(QUERIES)[:, 4], scaled, atol=1e-4)
    assert (fit("knn", {"k": 100})(QUERIES)[:, 4] == 0).all()


@pytest.mark.parametrize("cosines", [[0.92, 0.93, 0.95], [0.5, 0.9, 0.5, 0.91, 0.91, 0.5]])
def test_of_classes_with_equal_votes_that_of_the_nearest_wins(cosines):
    features = [[c, np.sqrt(1 - c * c)] for c in cosines]
    labels = np.arange(len(cosines)) % 3
    expected = labels[np.argmax(cosines)]
    assert fit("knn", {"votes": "plurality", "k": 6}, features, labels, None)([[1.0, 0.0]]).argmax() == expected


def test_the_number_of_classes_is_that_of_texts_or_told_or_the_largest_label():
    assert fit("knn", {})(QUERIES).shape == (11, 6)
    assert fit("knn", {}, text=None, num_classes=9)(QUERIES).shape == (11, 9)
    assert fit("prototypes", {}, labels=np.minimum(LABELS, 3), text=None)(QUERIES).shape == (11, 4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("svm", {}, "unknown adapter 'svm'; known: zero_shot, prototypes, knn, tip_adapter"),
        ("knn", {"n": 3}, "unknown setting 'n' of knn; known: temperature, k, votes"),
        ("zero_shot", {"k": 3}, "unknown setting 'k' of zero_shot; known: none"),
        ("knn", {"k": 0}, "k 0 is not a positive whole number"),
        ("knn", {"k": 2.5}, r"k 2\.5 is not"),
        ("knn", {"votes": "most"}, "unknown votes 'most'; known: softmax, plurality, distance, rank"),
        ("knn", {"temperature": 0.0}, r"temperature 0\.0 is not positive"),
        ("prototypes", {"centering": "l1"}, "unknown centering 'l1'; known: l2, cl2n"),
        ("prototypes", {"text_weight": 1.1}, r"text_weight 1\.1 is not within \[0, 1\]"),
        ("prototypes", {"text_weight": float("nan")}, "text_weight nan"),
        ("tip_adapter", {"alpha": -1.0}, r"alpha -1\.0 is negative"),
        ("tip_adapter", {"beta": -0.5}, r"beta -0\.5 is negative"),
    ],
)
def test_unknown_names_and_settings_outside_their_range_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        adapt.create(name, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.where(np.arange(len(LABELS))[:, None] == 3, np.nan, FEATURES)}, "row 3 .* not finite"),
        ({"features": FEATURES[0]}, r"features \[7\] and labels \[23\]"),
        ({"features": FEATURES[:9]}, r"features \[9, 7\] and labels \[23\]"),
        ({"features": FEATURES[:, :5]}, r"class text features \[6, 7\] are not \[classes, 5\]"),
        ({"features": FEATURES[:0], "labels": LABELS[:0]}, "the support is empty"),
        ({"labels": LABELS + 1}, r"support label 6 is not within \[0, 6\)"),
        ({"labels": LABELS - 1}, r"support label -1 is not within \[0, 6\)"),
        ({"labels": LABELS * 1.0}, "support labels are float64"),
        ({"text": TEXT[0]}, r"class text features \[7\]"),
        ({"text": TEXT * np.inf}, "class text features are not finite"),
        ({"text": None}, "TipAdapter needs class_text_features"),
        ({"num_classes": 5}, "num_classes 5 is not the number of class text features, 6"),
    ],
)
def test_input_that_does_not_fit_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit("tip_adapter", {}, **change)
    if change.get("text", 0) is None:
        with pytest.raises(ValueError, match="ZeroShot needs class_text_features"):
            fit("zero_shot", {}, **change)


def test_every_method_is_described_and_its_grid_begins_with_the_defaults():
    described = adapt.methods()
    assert list(described) == list(adapt.METHODS) == ["zero_shot", "prototypes", "knn", "tip_adapter"]
    assert {name for name, method in described.items() if method["needs_text"]} == {"zero_shot", "tip_adapter"}
    for name, method in described.items():
        assert adapt.create(name, **method["settings"]) == adapt.create(name)
        assert all(method["settings"][key] == values[0] for key, values in adapt.find(name).grid.items())

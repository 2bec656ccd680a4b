"""Settings, support sets and queries: what is accepted, and the errors for invalid input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapt
from tests.adapt.adapters import references

FEATURES, LABELS, TEXT, QUERIES = references.example()


def fit(name, settings, features=FEATURES, labels=LABELS, text=TEXT, **more):
    return adapt.create(name, **settings).fit(features, labels, class_text_features=text, **more)


def assert_equal(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("svm", {}, r"unknown method 'svm'\. Known: zero_shot, prototypes, knn, tip_adapter, "),
        ("tip-adapter", {}, r"unknown method 'tip-adapter'\. Did you mean 'tip_adapter'\? Known: zero_shot, "),
        (["knn"], {}, r"unknown method \['knn'\]\. Known: zero_shot, "),
        (
            "tip_adapter",
            {"betta": 3},
            r"unknown tip_adapter setting 'betta'\. Did you mean 'beta'\? Known: alpha, beta",
        ),
        ("knn", {"n": 3}, r"unknown knn setting 'n'\. Known: temperature, k, votes"),
        ("zero_shot", {"k": 3}, r"unknown zero_shot setting 'k'\. Known: none"),
        ("knn", {"k": 0}, "k 0 is less than 1, the smallest valid value"),
        ("knn", {"k": 2.5}, r"k 2\.5 is not an integer"),
        ("knn", {"votes": "most"}, r"unknown votes 'most'\. Known: softmax, plurality, distance, rank"),
        ("knn", {"temperature": 0.0}, r"temperature 0\.0 is not positive; use a value above 0"),
        ("prototypes", {"centering": "l1"}, r"unknown centering 'l1'\. Known: l2, cl2n, raw"),
        ("prototypes", {"text_weight": 1.1}, r"text_weight 1\.1 is outside \[0, 1\]"),
        ("prototypes", {"text_weight": float("nan")}, "text_weight nan is not finite"),
        ("tip_adapter", {"alpha": -1.0}, r"alpha -1\.0 is less than 0"),
        ("tip_adapter", {"beta": -0.5}, r"beta -0\.5 is less than 0"),
        ("tip_adapter", {"alpha": float("inf")}, "alpha inf is not finite in float32"),
        ("tip_adapter", {"alpha": "3"}, "alpha '3' is not a number"),
        ("knn", {"votes": 3}, "votes 3 is not a string"),
        ("tip_adapter", {"class_weight": "equal"}, r"unknown class_weight 'equal'\. Known: balanced, none"),
        ("local", {"rbf": 1.0}, r"rbf 1\.0 is above 0: the gate would grow with the distance"),
        ("local", {"damp": 1.5}, r"damp 1\.5 is outside \[0, 1\]"),
        ("local", {"inner": "svm"}, "unknown method 'svm'"),
        ("local", {"inner": "local"}, "inner adapter Local is already local"),
        ("local", {"inner": "gda", "beta": 1.0}, r"unknown local setting 'beta'\. Known: inner, rbf, damp, alpha"),
        ("local", {"inner": 3}, "inner 3 is not an adapter"),
        ("llu", {"rbf": 0.1}, r"rbf 0\.1 is above 0"),
        ("llu", {"towers": "none"}, r"unknown towers 'none'\. Known: both, image, text"),
        ("llu", {"damping": "learned"}, r"damp 1\.0 is outside \(0, 1\), the range of a learned damp"),
        ("llu", {"steps": 2.5}, r"steps 2\.5 is not an integer"),
        ("tip_x", {"temperature": 0}, r"temperature 0\.0 is not positive"),
        ("ape", {"channels": 0.0}, r"channels 0\.0 is outside \(0, 1\]"),
        ("gda", {"alpha": -1}, r"alpha -1\.0 is less than 0"),
        ("proker", {"ridge": 0.0}, r"ridge 0\.0 is not positive"),
        ("ss_text", {"constraint": 0.0}, r"constraint 0\.0 is not positive"),
        ("ss_text", {"repel": -1.0}, r"repel -1\.0 is less than 0"),
        ("ss_text", {"penalty": "shot"}, r"unknown penalty 'shot'\. Did you mean 'shots'\? Known: shots, constant"),
    ],
)
def test_unknown_names_and_settings_outside_their_range_raise(name, settings, message):
    with pytest.raises(ValueError, match=message):
        adapt.create(name, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features": np.where(np.arange(len(LABELS))[:, None] == 3, np.nan, FEATURES)},
            "row 3 of the support features is not finite",
        ),
        (
            {"features": FEATURES[0]},
            r"support features have shape \[7\] and labels \[23\], expected \[n, dim\] and \[n\]",
        ),
        (
            {"features": FEATURES[:9]},
            r"support features have shape \[9, 7\] and labels \[23\], expected \[n, dim\] and \[n\]",
        ),
        (
            {"features": FEATURES[:, :5]},
            r"support features have shape \[23, 5\], expected \[n, 7\]: all features must come",
        ),
        ({"features": FEATURES[:0], "labels": LABELS[:0]}, "the support set is empty"),
        ({"labels": LABELS + 1}, r"support label 6 is outside \[0, 6\)"),
        ({"labels": LABELS - 1}, r"support label -1 is outside \[0, 6\)"),
        ({"labels": LABELS * 1.0}, "support labels have dtype float64"),
        ({"text": TEXT[0]}, r"class text features have shape \[7\], expected \[classes, dim\]"),
        ({"text": TEXT * np.inf}, "row 0 of the class text features is not finite"),
        ({"text": None}, "TipX needs class_text_features"),
        ({"features": FEATURES.astype(str)}, "support features have dtype <U32, which is not numeric"),
        ({"labels": LABELS * 0, "text": TEXT[:1]}, "there is only one class"),
        ({"logit_scale": 0.0}, r"logit_scale 0\.0 is not positive"),
        ({"num_classes": 5}, "num_classes 5 differs from the 6 rows of class_text_features"),
    ],
)
def test_support_sets_that_are_invalid_or_do_not_match_raise(change, message):
    with pytest.raises(ValueError, match=message):
        fit("tip_x", {}, **change)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (QUERIES[:, :5], r"query features have shape \[11, 5\], expected \[n, 7\]"),
        (QUERIES[0], r"query features have shape \[7\], expected \[n, 7\]"),
        (np.where(np.arange(11)[:, None] == 2, np.inf, QUERIES), "row 2 of the query features is not finite"),
        (jnp.full((3, 7), jnp.nan), "row 0 of the query features is not finite"),
    ],
)
def test_invalid_queries_raise(queries, message):
    with pytest.raises(ValueError, match=message):
        fit("tip_adapter", {})(queries)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32"])
def test_features_of_any_numeric_dtype_are_accepted(dtype):
    features, text, queries = (np.asarray(8 * v).astype(jnp.dtype(dtype)) for v in (FEATURES, TEXT, QUERIES))
    plain = fit("gda", {}, *(np.asarray(v, np.float32) for v in (features,)), text=np.asarray(text, np.float32))
    logits = fit("gda", {}, features, text=text)(queries)
    assert logits.dtype == jnp.float32
    assert_equal(logits, plain(np.asarray(queries, np.float32)))


def test_features_whose_squares_over_or_underflow_are_normalised():
    for length in (1e-30, 1e30):
        assert_equal(fit("tip_adapter", {}, FEATURES * length)(QUERIES * length), fit("tip_adapter", {})(QUERIES))


def test_extend_with_invalid_examples_raises():
    classifier, without = fit("tip_adapter", {}), fit("tip_adapter", {}, text=None)
    with pytest.raises(
        ValueError, match=r"label 6 is a new class without a class text\. Pass class_text_features \[new classes, 7\]"
    ):
        classifier.extend(FEATURES[:1], [6])
    with pytest.raises(ValueError, match=r"support features have shape \[1, 5\], expected \[n, 7\]"):
        classifier.extend(FEATURES[:1, :5], [0])
    with pytest.raises(ValueError, match="this classifier was fitted without class texts"):
        without.extend(FEATURES[:1], [6], class_text_features=TEXT[:1])
    assert without.extend(FEATURES[:1], [8])(QUERIES).shape == (11, 9)


def test_features_beyond_float32_are_normalised_in_float64():
    for length in (1e-60, 1e100):
        assert_equal(fit("gda", {}, FEATURES * length)(QUERIES * length), fit("gda", {})(QUERIES))


def test_integer_settings_accept_floats_and_numpy_scalars():
    for k in (3.0, np.int64(3), np.float32(3)):
        assert adapt.create("knn", k=k) == adapt.create("knn", k=3)


def test_settings_given_with_an_array_setting_are_checked():
    array = jnp.array([1.0, 2.0])
    for settings, message in [
        ({"alpha": array, "class_weight": "blanced"}, r"unknown class_weight 'blanced'\. Did you mean 'balanced'\?"),
        ({"beta": -1.0, "alpha": array}, r"beta -1\.0 is less than 0"),
        ({"class_weight": np.array("none")}, "class_weight of tip_adapter cannot be an array"),
        ({"alpha": np.array("a")}, "alpha of tip_adapter cannot be an array"),
        ({"alpha": 1e300}, r"alpha 1e\+300 is not finite in float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            adapt.create("tip_adapter", **settings)


def test_stacked_adapters_and_classifiers_raise_outside_vmap():
    with pytest.raises(ValueError, match=r"settings of TipAdapter are stacked\. Map over them with jax\.vmap"):
        fit("tip_adapter", {"alpha": jnp.array([1.0, 2.0])})
    stacked = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 2), fit("gda", {}))
    for use in (lambda: stacked(QUERIES), lambda: stacked.extend(FEATURES, LABELS), lambda: stacked.save("nowhere")):
        with pytest.raises(ValueError, match="2 classifiers are stacked"):
            use()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_classes": "3"}, "num_classes '3' is not a number"),
        ({"num_classes": -2}, "num_classes -2 is not positive"),
        ({"logit_scale": None}, "logit_scale None is not a number"),
        ({"labels": [[0], [1, 2]]}, "rows of different lengths"),
        ({"text": TEXT[:0]}, "class_text_features is empty"),
    ],
)
def test_arguments_of_the_wrong_type_raise(given, message):
    with pytest.raises(ValueError, match=message):
        fit("prototypes", {}, **({"text": None} | given))

"""The scikit-learn classifier: labels, probabilities, incremental fits, searches, pipelines and files."""

import json

import jax
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

import adapt
from adapt import FewShotClassifier
from tests.adapt.adapters import references

FEATURES, LABELS, TEXT, QUERIES = references.example()
NAMES = np.array(["bee", "ant", "cat", "dog", "eel", "fly"])  # of the labels; not sorted
TEXTS = dict(zip(NAMES.tolist(), TEXT, strict=True))
SORTED = np.argsort(NAMES)


def blobs(classes=4, per_class=8, dim=12, spread=0.35):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(classes, dim))
    labels = np.repeat(np.arange(classes), per_class)
    return (
        centers[labels] + spread * rng.normal(size=(len(labels), dim)),
        np.array(["d", "a", "c", "b"])[labels],
        centers,
    )


@pytest.mark.parametrize("method", ["tip_adapter", "gda", "zero_shot", "clap"])
def test_predictions_are_those_of_the_adapter_under_the_names_of_the_classes(method):
    estimator = FewShotClassifier(method, class_text_features=TEXTS, logit_scale=30.0, calibrate=False)
    estimator.fit(FEATURES, NAMES[LABELS])
    ours = adapt.create(method).fit(FEATURES, LABELS, class_text_features=TEXT, logit_scale=30.0)
    assert estimator.classes_.tolist() == sorted(NAMES)
    np.testing.assert_array_equal(estimator.predict(QUERIES), NAMES[ours.predict(QUERIES)])
    expected = np.asarray(ours.predict_proba(QUERIES))[:, SORTED]
    np.testing.assert_allclose(estimator.predict_proba(QUERIES), expected, atol=1e-5)
    assert estimator.score(QUERIES, NAMES[ours.predict(QUERIES)]) == 1


def test_probabilities_are_calibrated_on_left_out_examples():
    features, labels, _ = blobs(per_class=12, spread=1.3)
    queries, truth, _ = blobs(per_class=60, spread=1.3)
    loss = {}
    for calibrate in (False, True):
        estimator = FewShotClassifier("prototypes", calibrate=calibrate).fit(features, labels)
        own = estimator.predict_proba(queries)[np.arange(len(truth)), np.searchsorted(estimator.classes_, truth)]
        loss[calibrate] = -np.mean(np.log(np.maximum(own, 1e-12)))
        assert estimator.calibration_.source == ("held-out support images" if calibrate else "not calibrated")
    assert loss[True] < loss[False] / 2


def test_the_number_of_queries_does_not_change_a_prediction():
    estimator = FewShotClassifier("tip_adapter").fit(FEATURES, LABELS)
    many = np.resize(QUERIES, (5000, QUERIES.shape[1]))
    together = estimator.predict_proba(many)
    assert together.shape == (5000, 5)
    np.testing.assert_allclose(together[: len(QUERIES)], estimator.predict_proba(QUERIES), atol=1e-6)


def test_a_class_with_a_text_and_without_examples_is_predicted():
    rows = NAMES[LABELS] != "cat"
    estimator = FewShotClassifier("tip_adapter", class_text_features=TEXTS).fit(FEATURES[rows], NAMES[LABELS][rows])
    assert estimator.classes_.tolist() == sorted(NAMES)
    assert estimator.predict(TEXT[[2]]).tolist() == ["cat"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (TEXT, r"class_text_features is a ndarray\. Pass a mapping from class name to features"),
        ({"bee": TEXT[0]}, r"class_text_features lacks \d classes, first 'ant'\. Add their texts"),
        (TEXTS | {"ant": TEXT[0, :3]}, r"have shape \[\d\], expected \[dim\], the same for all"),
        (TEXTS | {"ant": TEXT}, r"class_text_features of 'ant' have shape \[6, 7\], expected \[dim\]"),
        ({name: text[:5] for name, text in TEXTS.items()}, "all features must come from the same checkpoint"),
    ],
)
def test_class_texts_that_do_not_match_raise(texts, message):
    with pytest.raises(ValueError, match=message):
        FewShotClassifier("tip_adapter", class_text_features=texts).fit(FEATURES, NAMES[LABELS])


def test_a_method_that_needs_texts_raises_without():
    with pytest.raises(ValueError, match="TipX needs class_text_features"):
        FewShotClassifier("tip_x").fit(FEATURES, LABELS)


def test_settings_are_parameters_and_unknown_ones_raise():
    estimator = FewShotClassifier("tip_adapter", alpha=2.0)
    assert estimator.get_params()["alpha"] == 2.0 and "beta" not in estimator.get_params()
    assert estimator.set_params(beta=3.0, logit_scale=50.0).get_params()["beta"] == 3.0
    assert estimator.fit(FEATURES, LABELS).classifier_.adapter == adapt.create("tip_adapter", alpha=2.0, beta=3.0)
    with pytest.raises(ValueError, match=r"unknown tip_adapter setting 'bta'\. Did you mean 'beta'"):
        estimator.set_params(bta=1.0)
    with pytest.raises(ValueError, match="unknown knn setting 'alpha'"):
        FewShotClassifier("knn", alpha=1.0).fit(FEATURES, LABELS)
    with pytest.raises(ValueError, match=r"unknown method 'tip-adapter'\. Did you mean 'tip_adapter'"):
        FewShotClassifier("tip-adapter").fit(FEATURES, LABELS)


def test_no_setting_of_a_method_has_the_name_of_a_parameter():
    settings = {name for method in adapt.methods().values() for name in method["settings"]}
    assert not settings & set(FewShotClassifier().get_params())


def test_classifiers_are_printed_in_one_line():
    estimator = FewShotClassifier("gda", class_text_features=TEXTS, alpha=2.0)
    assert repr(estimator) == "FewShotClassifier(method='gda', class_text_features=<6 classes>, alpha=2.0)"
    estimator.fit(FEATURES, NAMES[LABELS])
    assert (
        repr(estimator.classifier_) == "Classifier(Gda(alpha=2.0), Support(features [23, 7], 6 classes, class texts))"
    )
    stacked = jax.tree.map(lambda leaf: jax.numpy.stack([leaf, leaf]), estimator.classifier_)
    assert "[2, 23, 7]" in repr(stacked) and "\n" not in repr(stacked)


@pytest.mark.parametrize("method", ["prototypes", "gda"])
def test_partial_fit_with_new_classes_equals_fit_on_all_examples(method):
    features, labels, _ = blobs()
    first = np.isin(labels, ["b", "c"])
    estimator = FewShotClassifier(method).partial_fit(features[first], labels[first])
    estimator.partial_fit(features[~first], labels[~first])
    whole = FewShotClassifier(method).fit(features, labels)
    assert estimator.classes_.tolist() == ["b", "c", "a", "d"]  # earlier columns keep their places
    columns, queries = np.argsort(estimator.classes_), np.random.default_rng(3).normal(size=(9, 12))
    np.testing.assert_allclose(estimator.predict_proba(queries)[:, columns], whole.predict_proba(queries), atol=1e-4)


def test_partial_fit_takes_texts_of_new_classes_from_the_parameter():
    known = {name: TEXTS[name] for name in ("bee", "cat", "dog")}
    rows = np.isin(NAMES[LABELS], list(known))
    estimator = FewShotClassifier("tip_adapter", class_text_features=known).fit(FEATURES[rows], NAMES[LABELS][rows])
    with pytest.raises(ValueError, match="class_text_features lacks 1 classes, first 'ant'"):
        estimator.partial_fit(FEATURES[LABELS == 1], ["ant"] * np.sum(LABELS == 1))
    estimator.set_params(class_text_features=TEXTS).partial_fit(FEATURES[~rows], NAMES[LABELS][~rows])
    whole = FewShotClassifier("tip_adapter", class_text_features=TEXTS).fit(FEATURES, NAMES[LABELS])
    assert estimator.classes_.tolist() == ["bee", "cat", "dog", "ant", "eel", "fly"]
    assert estimator.predict(QUERIES).tolist() == whole.predict(QUERIES).tolist()


def test_partial_fit_declares_classes_without_examples_in_its_first_call():
    features, labels, _ = blobs()
    rows = labels != "a"
    estimator = FewShotClassifier().partial_fit(features[rows], labels[rows], classes=["a", "b", "c", "d"])
    assert estimator.classes_.tolist() == ["a", "b", "c", "d"]
    assert "a" not in estimator.predict(features)
    with pytest.raises(ValueError, match=r"new classes \['e'\] have no examples"):
        estimator.partial_fit(features, labels, classes=["a", "e"])
    assert estimator.partial_fit(features[~rows], labels[~rows]).score(features, labels) == 1


def test_cross_validation_searches_and_pipelines_work_with_texts_and_names():
    features, labels, centers = blobs()
    texts = dict(zip("dacb", centers, strict=True))
    estimator = FewShotClassifier("tip_adapter", class_text_features=texts)
    assert cross_val_score(estimator, features, labels, cv=4).mean() > 0.9
    assert cross_val_score(estimator, features, labels, cv=2, scoring="neg_log_loss").mean() > -1
    grid = [{"method": ["tip_adapter"], "alpha": [0.5, 2.0]}, {"method": ["knn"], "k": [1]}]
    search = GridSearchCV(FewShotClassifier(class_text_features=texts), grid, cv=2, error_score="raise")
    assert len(search.fit(features, labels).cv_results_["params"]) == 3
    pipeline = make_pipeline(Normalizer(), estimator).set_params(fewshotclassifier__beta=2.0)
    assert pipeline.fit(features, labels).score(features, labels) == 1
    assert pipeline[-1].classifier_.adapter.beta == 2.0


@pytest.mark.parametrize(("labels", "texts"), [(NAMES[LABELS], TEXTS), (LABELS * 10, None)])
def test_a_saved_classifier_keeps_class_names_settings_and_calibration(tmp_path, labels, texts):
    estimator = FewShotClassifier("tip_adapter", class_text_features=texts, logit_scale=30.0, alpha=2.0)
    estimator.fit(FEATURES, labels).save(tmp_path)
    opened = FewShotClassifier.load(tmp_path)
    np.testing.assert_array_equal(opened.classes_, estimator.classes_)
    np.testing.assert_array_equal(opened.predict_proba(QUERIES), estimator.predict_proba(QUERIES))
    assert opened.calibration_ == estimator.calibration_ and opened.get_params()["alpha"] == 2.0
    np.testing.assert_array_equal(adapt.load(tmp_path)(QUERIES), estimator.classifier_(QUERIES))
    again = opened.fit(FEATURES, labels)  # the parameters are restored as well
    np.testing.assert_allclose(again.predict_proba(QUERIES), estimator.predict_proba(QUERIES), atol=1e-5)
    assert opened.partial_fit(FEATURES[:2], labels[:2]).n_features_in_ == 7


def test_a_classifier_without_names_opens_with_numbers(tmp_path):
    adapt.create("local", inner="gda", alpha=2.0).fit(FEATURES, LABELS, class_text_features=TEXT).save(tmp_path)
    opened = FewShotClassifier.load(tmp_path)
    assert opened.classes_.tolist() == [0, 1, 2, 3, 4, 5]
    assert opened.calibration_.source == "held-out support images"
    assert opened.fit(FEATURES, LABELS).classifier_.adapter.inner.alpha == 2.0


def test_class_names_of_another_classifier_raise(tmp_path):
    FewShotClassifier().fit(FEATURES, NAMES[LABELS]).save(tmp_path)
    described = json.loads((tmp_path / "classes.json").read_text())
    for change, message in [
        ({"classes": ["a", "b"]}, "it does not have 5 different class names"),
        ({"classes": ["a", "b", "b", "c", "d"]}, "it does not have 5 different class names"),
        ({"classes": ["a", "b", "c", "d", None]}, "class None is a NoneType"),
        ({"calibration": -1.0}, r"calibration -1\.0 is not positive"),
        ({"classifier_sha256": "0"}, "it was written for another one"),
    ]:
        (tmp_path / "classes.json").write_text(json.dumps(described | change))
        with pytest.raises(ValueError, match=rf"classes\.json does not describe the classifier next to it: {message}"):
            FewShotClassifier.load(tmp_path)
    (tmp_path / "classes.json").write_text("{}")
    with pytest.raises(ValueError, match="it has no 'classes'"):
        FewShotClassifier.load(tmp_path)


def test_an_unfitted_classifier_cannot_be_saved(tmp_path):
    with pytest.raises(NotFittedError):
        FewShotClassifier().save(tmp_path)

"""The methods of a labelling session give the logits of the adapters that they stand for."""

import jax
import numpy as np
import pytest

import adapt
from adapt.adapters.ops import normalize_numpy
from adapt.labelling.methods import ALPHAS, BETAS, SCALE, TEXT_WEIGHTS, Fit, Labelled, _left_out, choose, logits_of

TOLERANCE = 2e-3  # of logits of up to a thousand


def labelled(*, counts=(4, 1, 3, 0), texts=True, dim=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    features = normalize_numpy((rng.normal(size=(len(labels), dim)) + np.eye(dim)[labels]).astype(np.float32))
    text_features = normalize_numpy(rng.normal(size=(len(counts), dim)).astype(np.float32)) if texts else None
    return Labelled(features, labels, text_features, len(counts))


def fitted(data, method, settings):
    return adapt.create(method, **settings).fit(
        data.features, data.labels, class_text_features=data.texts, num_classes=data.num_classes, logit_scale=SCALE
    )


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("counts", [(4, 1, 3, 0), (2, 2), (1, 1, 1), (5, 0, 1)])
def test_every_setting_equals_its_adapter_on_queries_and_left_out_pictures(counts, texts):
    data = labelled(counts=counts, texts=texts)
    rng = np.random.default_rng(1)
    queries = normalize_numpy(rng.normal(size=(30, 12)).astype(np.float32))
    cosines = list((queries @ data.features.T).T)
    tried = list(_left_out(data))
    assert len(tried) == (1 + len(TEXT_WEIGHTS) + len(ALPHAS) * len(BETAS) if texts else 1 + len(BETAS))
    for method, settings, left_out in tried:
        classifier = fitted(data, method, settings)
        own = logits_of(Fit(method, settings, left_out, 0.0, 1), data, queries, cosines)
        np.testing.assert_allclose(own, classifier(queries), atol=TOLERANCE, rtol=1e-4, err_msg=f"{method} {settings}")
        expected = classifier.adapter.logits(
            classifier.adapter.leave_one_out(classifier.support, key=jax.random.key(0))
        )
        np.testing.assert_allclose(left_out, expected, atol=TOLERANCE, rtol=1e-4, err_msg=f"{method} {settings}")


def test_the_choice_is_the_most_accurate_on_classes_with_two_or_more():
    data = labelled(counts=(6, 1, 5, 2))
    best = choose(data)
    several = data.counts[data.labels] > 1
    scores = [float((logits.argmax(axis=1) == data.labels)[several].mean()) for _, _, logits in _left_out(data)]
    assert best.accuracy == max(scores)
    assert best.tried == len(scores)
    np.testing.assert_array_equal(best.left_out, list(_left_out(data))[int(np.argmax(scores))][2])


@pytest.mark.parametrize(("texts", "method"), [(True, "tip_adapter"), (False, "prototypes")])
def test_nothing_to_leave_out_gives_the_default(texts, method):
    found = choose(labelled(counts=(1, 1, 0), texts=texts))
    defaults = adapt.methods()[method]["settings"]
    assert found.method == method
    assert np.isnan(found.accuracy)
    assert all(defaults[name] == value for name, value in found.settings.items())


def test_without_labels_the_texts_decide():
    data = labelled(counts=(0, 0, 0))
    found = choose(data)
    assert (found.method, found.tried) == ("zero_shot", 0)
    queries = normalize_numpy(np.random.default_rng(2).normal(size=(5, 12)).astype(np.float32))
    np.testing.assert_allclose(logits_of(found, data, queries, []), SCALE * queries @ data.texts.T, rtol=1e-6)

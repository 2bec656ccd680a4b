"""The methods of a labelling session give the logits of the adapters that they stand for."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

import adapt
from adapt.adapters.ops import normalize_numpy
from adapt.labelling.classifier.methods import (
    ALPHAS,
    SCALE,
    TEXT_WEIGHTS,
    Fit,
    Labelled,
    _left_out,
    choose,
    logits_of,
)
from adapt.labelling.classifier.similarities import BETAS

TOLERANCE = 2e-3  # of logits of up to a thousand


class Examples(NamedTuple):
    """Labelled pictures with their features `[n, dim]` and class numbers `[n]`, and class texts `[classes, dim]`."""

    features: np.ndarray
    labels: np.ndarray
    texts: np.ndarray | None
    num_classes: int

    def sums(self, queries, *, without_themselves=False):
        """Return the sum of each kernel over each class, `[kernels, queries, classes]`."""
        cosines = queries @ self.features.T
        kernels = np.stack([cosines, *(np.exp(beta * (cosines - 1)) for beta in BETAS)])
        if without_themselves:
            kernels[:, np.arange(len(queries)), np.arange(len(queries))] = 0
        return (kernels @ np.eye(self.num_classes)[self.labels]).astype(np.float32)

    def text_cosines(self, queries):
        return None if self.texts is None else queries @ self.texts.T

    @property
    def labelled(self):
        sums = self.sums(self.features, without_themselves=True)
        return Labelled(self.labels, sums, self.text_cosines(self.features))


def examples(*, counts=(4, 1, 3, 0), texts=True, dim=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    features = normalize_numpy((rng.normal(size=(len(labels), dim)) + np.eye(dim)[labels]).astype(np.float32))
    text_features = normalize_numpy(rng.normal(size=(len(counts), dim)).astype(np.float32)) if texts else None
    return Examples(features, labels, text_features, len(counts))


def logits(fit, data, queries):
    return logits_of(fit, data.labelled, data.sums(queries)[fit.kernel], data.text_cosines(queries))


def fitted(data, method, settings):
    return adapt.create(method, **settings).fit(
        data.features, data.labels, class_text_features=data.texts, num_classes=data.num_classes, logit_scale=SCALE
    )


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("counts", [(4, 1, 3, 0), (2, 2), (1, 1, 1), (5, 0, 1)])
def test_every_setting_equals_its_adapter_on_queries_and_left_out_pictures(counts, texts):
    data = examples(counts=counts, texts=texts)
    queries = normalize_numpy(np.random.default_rng(1).normal(size=(30, 12)).astype(np.float32))
    tried = list(_left_out(data.labelled))
    assert len(tried) == (1 + len(TEXT_WEIGHTS) + len(ALPHAS) * len(BETAS) if texts else 1 + len(BETAS))
    for method, settings, left_out in tried:
        classifier = fitted(data, method, settings)
        own = logits(Fit(method, settings, left_out, 0.0, 1), data, queries)
        np.testing.assert_allclose(own, classifier(queries), atol=TOLERANCE, rtol=1e-4, err_msg=f"{method} {settings}")
        expected = classifier.adapter.logits(
            classifier.adapter.leave_one_out(classifier.support, key=jax.random.key(0))
        )
        np.testing.assert_allclose(left_out, expected, atol=TOLERANCE, rtol=1e-4, err_msg=f"{method} {settings}")


def test_the_choice_is_the_most_accurate_on_classes_with_two_or_more():
    data = examples(counts=(6, 1, 5, 2))
    best = choose(data.labelled)
    several = data.labelled.counts[data.labels] > 1
    scores = [
        float((left_out.argmax(axis=1) == data.labels)[several].mean()) for _, _, left_out in _left_out(data.labelled)
    ]
    assert best.accuracy == max(scores)
    assert best.tried == len(scores)
    np.testing.assert_array_equal(best.left_out, list(_left_out(data.labelled))[int(np.argmax(scores))][2])


@pytest.mark.parametrize(("texts", "method"), [(True, "tip_adapter"), (False, "prototypes")])
def test_nothing_to_leave_out_gives_the_default(texts, method):
    found = choose(examples(counts=(1, 1, 0), texts=texts).labelled)
    defaults = adapt.methods()[method]["settings"]
    assert found.method == method
    assert np.isnan(found.accuracy)
    assert all(defaults[name] == value for name, value in found.settings.items())


def test_without_labels_the_texts_decide():
    data = examples(counts=(0, 0, 0))
    found = choose(data.labelled)
    assert (found.method, found.tried) == ("zero_shot", 0)
    queries = normalize_numpy(np.random.default_rng(2).normal(size=(5, 12)).astype(np.float32))
    np.testing.assert_allclose(logits(found, data, queries), SCALE * queries @ data.texts.T, rtol=1e-6)

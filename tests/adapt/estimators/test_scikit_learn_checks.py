"""scikit-learn's own checks of estimators, on the methods that work without class texts."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import adapt


@parametrize_with_checks([adapt.FewShotClassifier("prototypes")])
def test_class_means_follow_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [adapt.FewShotClassifier(method) for method in ("gda", "linear_probe")]  # one in closed form, one trained
)
def test_methods_without_texts_follow_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)

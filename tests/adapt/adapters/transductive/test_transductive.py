"""Transductive adapters against float64 references, and what must not influence the logits of a query."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapt
from adapt.adapters.registry import TRANSDUCTIVE
from adapt.adapters.support import FOLDS, make_support
from adapt.adapters.transductive import neighbors
from adapt.adapters.transductive.queries import Queries
from adapt.model_selection.methods import choose_method
from tests.adapt.adapters.transductive import references

SUPPORT, LABELS, TEXT, QUERIES, WANTED = references.example()
VARIANTS = [
    ("transclip", {}),
    ("transclip", {"gamma": 0.2, "text_weight": 0.4, "temperature": 20.0, "neighbors": 5, "iterations": 2}),
    ("ss_text_u", {}),
    ("ss_text_u", {"constraint": 20.0, "absent": 2.0, "iterations": 1, "sinkhorn": 0}),
    ("ss_text_u", {"sinkhorn": 1, "iterations": 5}),
]


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


@jax.jit
def query_logits(adapter, support, queries):
    return adapter.query_logits(support, queries)


def logits(name, settings=None, support=SUPPORT, labels=LABELS, text=TEXT, queries=QUERIES, scale=30.0, **among):
    """Return logits in float64; `among` has `present` and `candidates`, by default all."""
    made = make_support(support, labels, class_text_features=text, logit_scale=scale)
    exact = dataclasses.replace(
        made,
        features=jnp.asarray(support, jnp.float64),
        class_text_features=jnp.asarray(text, jnp.float64),
        logit_scale=jnp.float64(scale),
    )
    present = jnp.asarray(among.get("present", np.ones(len(queries), bool)))
    candidates = jnp.asarray(among.get("candidates", np.ones(len(text), bool)))
    adapter = adapt.create(name, **settings or {})
    return np.asarray(query_logits(adapter, exact, Queries(jnp.asarray(queries, jnp.float64), present, candidates)))


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@pytest.mark.parametrize("dropped", [(), (1, 4)])
def test_logits_equal_a_float64_reference(name, settings, dropped):
    rows = ~np.isin(LABELS, dropped)  # classes without support examples
    ours = logits(name, settings, SUPPORT[rows], LABELS[rows])
    theirs = getattr(references, name)(SUPPORT[rows], LABELS[rows], TEXT, QUERIES, 30.0, **settings)
    apart = (ours - theirs) - (ours - theirs).mean(axis=1, keepdims=True)  # TransCLIP's have a constant per query
    assert np.abs(apart).max() < 1e-6


def test_zero_shot_variant_ignores_the_support_examples():
    ours = logits("transclip", {"variant": "zero_shot"})
    theirs = references.transclip(SUPPORT[:0], LABELS[:0], TEXT, QUERIES, 30.0)
    assert np.abs(references.softmax(ours) - references.softmax(theirs)).max() < 1e-9


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_classifier_in_float32_equals_the_float64_logits(name):
    with jax.enable_x64(False):
        fitted = adapt.create(name).fit(SUPPORT, LABELS, class_text_features=TEXT, logit_scale=30.0)
        ours = np.asarray(fitted(QUERIES), np.float64)
    assert np.abs(references.softmax(ours) - references.softmax(logits(name))).max() < 1e-4


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_padding_and_queries_that_do_not_count_have_no_influence(name):
    rows = np.delete(np.arange(len(QUERIES) + 20), np.arange(0, 80, 4))
    padded, present = np.zeros((len(QUERIES) + 20, 16)), np.zeros(len(QUERIES) + 20, bool)
    padded[::3], padded[rows], present[rows] = SUPPORT[0], QUERIES, True
    np.testing.assert_allclose(logits(name, queries=padded, present=present)[rows], logits(name), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_classes_that_are_no_candidates_have_no_influence(name):
    candidates, few = np.arange(6) < 3, LABELS < 3
    among = logits(name, candidates=candidates)
    alone = logits(name, None, SUPPORT[few], LABELS[few], TEXT[:3])
    assert np.isneginf(among[:, 3:]).all()
    np.testing.assert_allclose(among[:, :3], alone, rtol=0, atol=1e-9)
    new = logits(name, None, SUPPORT[few], LABELS[few], candidates=~candidates)  # no candidate has support
    assert np.isfinite(new[:, 3:]).all()


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_padding_of_the_support_set_has_no_influence(name):
    made = make_support(SUPPORT, LABELS, class_text_features=TEXT, logit_scale=30.0)
    longer = dataclasses.replace(
        made,
        features=jnp.concatenate([made.features[:5], made.features[:3], made.features[5:]]),
        labels=jnp.concatenate([made.labels[:5], jnp.full(3, -1), made.labels[5:]]),
    )
    adapter, queries = adapt.create(name), jnp.asarray(QUERIES, jnp.float32)
    given = [np.asarray(adapter.fit_support(each)(queries)) for each in (made, longer)]
    np.testing.assert_allclose(*map(references.softmax, given), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TRANSDUCTIVE)
@pytest.mark.parametrize(
    "queries",
    [QUERIES[:1], QUERIES[:2], np.repeat(QUERIES[:1], 9, axis=0), SUPPORT, np.zeros((4, 16))],
    ids=["one query", "two queries", "identical queries", "the support", "zeros"],
)
def test_few_and_identical_queries_give_finite_logits(name, queries):
    found = logits(name, queries=queries)
    assert np.isfinite(found).all()
    one = logits(name, queries=queries, candidates=np.arange(6) == 2)
    assert (one.argmax(axis=1) == 2).all()
    if len(queries) == 9:
        assert len(set(found.argmax(axis=1))) == 1


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_large_logits_do_not_overflow(name):
    with jax.enable_x64(False):
        fitted = adapt.create(name).fit(SUPPORT, LABELS, class_text_features=SUPPORT[::4], logit_scale=1000.0)
        assert np.isfinite(np.asarray(fitted(QUERIES))).all()


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_selection_sees_only_the_examples_of_the_fold_as_queries(name):
    made = make_support(SUPPORT, LABELS, class_text_features=TEXT, logit_scale=30.0)
    adapter = adapt.create(name)
    found = np.asarray(adapter.leave_fold_out(made, key=jax.random.key(0))[0])
    folds = np.asarray(made.folds)
    for fold in range(FOLDS):
        out = folds == fold
        expected = adapter.fit_support(
            make_support(SUPPORT[~out], LABELS[~out], class_text_features=TEXT, logit_scale=30.0)
        )(SUPPORT[out])
        np.testing.assert_allclose(references.softmax(found[out]), references.softmax(np.asarray(expected)), atol=2e-4)


def test_many_queries_are_computed_as_few_are(monkeypatch):
    monkeypatch.setattr(neighbors, "_DENSE_ROWS", 0)
    support = make_support(SUPPORT, LABELS, class_text_features=TEXT, logit_scale=30.0)
    adapter, x = adapt.create("transclip"), jnp.asarray(QUERIES, jnp.float32)
    found = adapter.query_logits(support, Queries(x, jnp.ones(len(x), bool), jnp.ones(6, bool)))
    assert np.abs(references.softmax(np.asarray(found)) - references.softmax(logits("transclip"))).max() < 1e-4


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_logits_depend_on_the_other_queries(name):
    assert (
        np.abs(references.softmax(logits(name)[:30]) - references.softmax(logits(name, queries=QUERIES[:30]))).max()
        > 0.01
    )


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_vmap_over_support_sets_equals_single_fits(name):
    supports = [
        make_support(SUPPORT, np.roll(LABELS, shift), class_text_features=np.roll(TEXT, shift)) for shift in range(2)
    ]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *supports)
    fit = jax.vmap(lambda support: adapt.create(name).fit_support(support)(QUERIES))
    for together, support in zip(fit(stack), supports, strict=True):
        alone = adapt.create(name).fit_support(support)(QUERIES)
        apart = references.softmax(np.asarray(together)) - references.softmax(np.asarray(alone))
        assert np.abs(apart).max() < 1e-4


def test_transductive_methods_are_not_among_the_methods_that_auto_compares():
    assert TRANSDUCTIVE == ("transclip", "ss_text_u")
    assert not set(TRANSDUCTIVE) & set(adapt.TRAINING_FREE)
    assert [name for name, described in adapt.methods().items() if described["transductive"]] == list(TRANSDUCTIVE)
    with jax.enable_x64(False):
        choice = choose_method("auto", SUPPORT, LABELS, num_classes=6, class_text_features=TEXT)
    assert not {each.method for each in choice.candidates} & set(TRANSDUCTIVE)


def test_local_refuses_a_transductive_method():
    with pytest.raises(ValueError, match="transclip is transductive"):
        adapt.create("local", inner="transclip")


def test_invalid_settings_are_named():
    for name, setting in (("transclip", {"temperature": 0.0}), ("transclip", {"variant": "zeroshot"})):
        with pytest.raises(ValueError, match=next(iter(setting))):
            adapt.create(name, **setting)
    with pytest.raises(ValueError, match="iterations"):
        adapt.create("ss_text_u", iterations=0)

"""Trained adapters against scikit-learn and float64 loops, and their initial states and warm starts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapt
from adapt.adapters.solvers import descend, mean_loss, minimize
from adapt.adapters.support import Support, make_support
from tests.adapt.adapters import references

TRAINED = [name for name, method in adapt.METHODS.items() if not (method.training_free or method.local)]
WITH_TEXT = [name for name in TRAINED if adapt.find(name).needs_text]
FEATURES, LABELS, TEXT, QUERIES = references.example()
SCALE = 30.0
SHAPE = {
    "clap": "vectors",
    "taskres": "residual",
    "tip_adapter_f": "keys",
    "rla": "map",
}  # methods that train one array by Adam


def fit(name, settings, features=FEATURES, labels=LABELS, text=TEXT, **more):
    return adapt.create(name, **settings).fit(features, labels, class_text_features=text, logit_scale=SCALE, **more)


def zero_shot(queries=QUERIES, text=TEXT):
    return SCALE * references.unit(queries) @ references.unit(text).T


def assert_close(ours, theirs, tolerance):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def cross_entropy(logits, labels):
    """Return the mean cross-entropy of a softmax over the classes that have examples."""
    known = sorted(set(labels))
    return np.mean([np.log(np.sum(np.exp(row[known] - row[y]))) for row, y in zip(logits, labels, strict=True)])


def numerical_gradient(loss, params, step=1e-5):
    """Return the gradient by central differences."""
    gradient = np.zeros_like(params)
    for place in np.ndindex(params.shape):
        moved = np.zeros_like(params)
        moved[place] = step
        gradient[place] = (loss(params + moved) - loss(params - moved)) / (2 * step)
    return gradient


def adam(loss, params, learning_rate, steps, epsilon=1e-8):
    first, second = np.zeros_like(params), np.zeros_like(params)
    for t in range(steps):
        gradient = numerical_gradient(loss, params)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moved = (first / (1 - 0.9 ** (t + 1))) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + epsilon)
        params = params - learning_rate * (1 + np.cos(np.pi * t / steps)) / 2 * moved
    return params


def loops(name, settings):
    """Return the float64 initial value of the trained array, and its loss, by the equations of the method."""
    x, text = references.unit(FEATURES), references.unit(TEXT)
    if name == "clap":
        p = np.exp(SCALE * x @ text.T)
        own = (p / p.sum(axis=1, keepdims=True))[np.arange(len(LABELS)), LABELS]
        weight = [own[c == LABELS].mean() if (c == LABELS).any() else 0.0 for c in range(6)]
        return (
            text.copy(),
            lambda v: (
                cross_entropy(SCALE * x @ references.unit(v).T, LABELS)
                + settings["constraint"]
                * np.mean([w * (a - b) @ (a - b) for w, a, b in zip(weight, v, text, strict=True)])
            ),
        )
    if name == "taskres":
        return np.zeros_like(text), lambda r: cross_entropy(SCALE * x @ references.unit(text + 0.5 * r).T, LABELS)
    if name == "rla":
        shots = len(LABELS) / len(set(LABELS))
        return (
            np.eye(7),
            lambda a: (
                cross_entropy(SCALE * references.unit(x @ a.T) @ text.T, LABELS)
                + settings["constraint"] / shots * np.sum((a - np.eye(7)) ** 2)
            ),
        )
    values = np.eye(6)[LABELS]
    return x.copy(), lambda keys: cross_entropy(
        SCALE * x @ text.T + settings["alpha"] * np.exp(-settings["beta"] * (1 - x @ keys.T)) @ values, LABELS
    )


def logistic_regression(features, labels, c):
    """Return the objective of weights and biases, and the fitted model of scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    def objective(weights, bias):
        logits = features @ weights.T + bias
        log_sum = np.log(np.exp(logits).sum(axis=1))
        return c * np.sum(log_sum - logits[np.arange(len(labels)), labels]) + np.sum(weights**2) / 2

    found = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(features, labels)
    return objective, found


@pytest.mark.slow
@pytest.mark.parametrize("c", [0.5, 300.0])
@pytest.mark.parametrize("counts", [(1, 40, 7), (61, 1, 1, 13)])
def test_linear_probe_reaches_the_optimum_of_scikit_learn(c, counts):
    rng = np.random.default_rng(sum(counts))
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    features = references.unit(rng.normal(size=(len(counts), 19))[labels] + rng.normal(size=(len(labels), 19)) + 1)
    objective, theirs = logistic_regression(features, labels, c)
    state = adapt.create("linear_probe", c=c).fit(features, labels).state
    weights, bias = np.asarray(state["weights"], np.float64), np.asarray(state["bias"], np.float64)
    assert objective(weights, bias) <= objective(theirs.coef_, theirs.intercept_) * (1 + 1e-6)
    logits = features @ weights.T + bias
    expected = features @ theirs.coef_.T + theirs.intercept_
    assert_close(*(v - v.mean(axis=1, keepdims=True) for v in (logits, expected)), 1e-3)


def test_linear_probe_ignores_padding():
    rng = np.random.default_rng(3)
    features, labels = references.unit(rng.normal(size=(41, 9))), rng.integers(0, 4, 41)
    kept = rng.random(41) < 0.7
    objective, theirs = logistic_regression(features[kept], labels[kept], 30.0)
    support = make_support(features, labels)
    state = adapt.create("linear_probe").fit_state(support.without(jnp.asarray(~kept)), key=jax.random.key(0))
    ours = objective(*(np.asarray(state[name], np.float64) for name in ("weights", "bias")))
    assert ours == pytest.approx(objective(theirs.coef_, theirs.intercept_), rel=1e-6)


def test_linear_probe_leaves_the_choice_of_classes_without_examples_to_the_text():
    classifier, text = fit("linear_probe", {}), zero_shot()
    logits = np.asarray(classifier(QUERIES))
    alone = references.unit(QUERIES) @ classifier.state["weights"].T + classifier.state["bias"]
    known = [0, 1, 2, 3, 5]
    np.testing.assert_array_equal(logits.argmax(axis=1) == 4, text.argmax(axis=1) == 4)
    np.testing.assert_allclose(logits[:, known].max(axis=1), text[:, known].max(axis=1), atol=1e-4)
    np.testing.assert_allclose(np.diff(logits[:, known]), np.diff(alone[:, known]), atol=1e-3)


@pytest.mark.parametrize("c", [0.3, 30.0])
def test_linear_probe_text_reaches_the_minimum_of_its_objective(c):
    x, text = references.unit(FEATURES), zero_shot(FEATURES)
    found = np.asarray(fit("linear_probe_text", {"c": c}).state["difference"], np.float64)

    def objective(difference):
        return c * len(LABELS) * cross_entropy(text + x @ difference.T, LABELS) + np.sum(difference**2) / 2

    assert np.linalg.norm(numerical_gradient(objective, found)) < 1e-4 * np.linalg.norm(found)
    assert not found[4].any()


@pytest.mark.parametrize("name", WITH_TEXT)
def test_without_training_logits_are_those_of_the_initial_state(name):
    settings = {"iterations": 0} if name == "linear_probe_text" else {"steps": 0}
    logits = fit(name, settings)(QUERIES)
    if name in ("linear_probe_text", "clap", "taskres", "rla"):
        np.testing.assert_allclose(logits, zero_shot(), atol=1e-4)
    elif name == "tip_adapter_f":
        plain = fit("tip_adapter", {"alpha": 3.0})(QUERIES)
        assert_close(logits, np.asarray(plain), 1e-6)
    elif name == "clip_adapter":
        plain = fit(name, settings | {"ratio": 0.0})(QUERIES)
        np.testing.assert_allclose(plain, zero_shot(), atol=1e-4)
    else:
        x, text = references.unit(FEATURES), references.unit(TEXT)
        sums = np.stack([x[c == LABELS].sum(axis=0) for c in range(6)])
        blend = 250 * np.mean([a @ text[y] for a, y in zip(x, LABELS, strict=True)])
        expected = references.unit(QUERIES) @ (sums + blend * text).T
        known = [0, 1, 2, 3, 5]
        assert_close(np.diff(logits[:, known]), np.diff(expected[:, known]), 1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clap", {"constraint": 10.0}),
        ("clap", {"constraint": 0.0}),
        ("taskres", {}),
        ("tip_adapter_f", {"alpha": 3.0, "beta": 5.5, "class_weight": "none"}),
        ("rla", {"constraint": 1.0}),
        ("rla", {"constraint": 0.0}),
    ],
)
def test_training_equals_adam_in_float64_loops(name, settings):
    start, loss = loops(name, settings)
    found = fit(name, {**settings, "steps": 4, "learning_rate": 0.01}).state[SHAPE[name]]
    epsilon = 1e-4 if name == "rla" else 1e-8
    expected = adam(loss, start, learning_rate=0.01, steps=4, epsilon=epsilon)
    np.testing.assert_allclose(found - start, expected - start, atol=1e-4)
    assert loss(np.asarray(fit(name, settings).state[SHAPE[name]], np.float64)) < loss(start)


def test_clip_adapter_training_equals_adam_in_float64_loops():
    x, text = references.unit(FEATURES), references.unit(TEXT)
    start = fit("clip_adapter", {"steps": 0, "reduction": 2}).state
    sizes = start["into"].shape, start["out"].shape

    def logits(params, rows):
        into, out = (v.reshape(size) for v, size in zip(np.split(params, [np.prod(sizes[0])]), sizes, strict=True))
        residual = np.maximum(np.maximum(rows @ into, 0) @ out, 0)
        return SCALE * references.unit(0.2 * residual + 0.8 * rows) @ text.T

    params = np.concatenate([np.ravel(start[name]) for name in ("into", "out")]).astype(np.float64)
    expected = adam(lambda p: cross_entropy(logits(p, x), LABELS), params, learning_rate=0.01, steps=4)
    found = fit("clip_adapter", {"steps": 4, "reduction": 2, "learning_rate": 0.01})
    ours = np.concatenate([np.ravel(found.state[name]) for name in ("into", "out")])
    np.testing.assert_allclose(ours - params, expected - params, atol=1e-4)
    known = [0, 1, 2, 3, 5]
    assert_close(found(QUERIES)[:, known], logits(expected, references.unit(QUERIES))[:, known], 1e-3)


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_lp_plus_plus_training_equals_float64_loops(steps):
    x, text = references.unit(FEATURES), references.unit(TEXT)
    n, known = len(x), sorted(set(LABELS))
    targets, cosines = np.eye(6)[LABELS], x @ text.T
    weights, bias, speed_w, speed_b = targets.T @ x, np.zeros(6), np.zeros((6, 7)), np.zeros(6)
    blend = np.full(6, 250 * np.mean([cosines[i, y] for i, y in enumerate(LABELS)]))
    step = 4 * n / np.linalg.eigvalsh(x.T @ x).max()
    text_step = n / (4 * max(np.sum(cosines[:, c] ** 2) for c in range(6)))
    for _ in range(steps):
        p = np.zeros((n, 6))
        logits = x @ weights.T + bias + blend * cosines
        for row, out in zip(logits, p, strict=True):
            out[known] = np.exp(row[known] - row.max()) / np.sum(np.exp(row[known] - row.max()))
        error = (p - targets) / n
        speed_w, speed_b = 0.9 * speed_w + error.T @ x, 0.9 * speed_b + error.sum(axis=0)
        blend = blend - text_step * np.sum(error * cosines, axis=0)
        weights, bias = weights - step * speed_w, bias - step * speed_b
    state = fit("lp_plus_plus", {"steps": steps}).state
    for name, expected in {"weights": weights, "bias": bias, "text_weights": blend}.items():
        assert_close(state[name], expected, 1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_fit_is_deterministic(name):
    key = jax.random.key(7)
    np.testing.assert_array_equal(fit(name, {}, key=key)(QUERIES), fit(name, {}, key=key)(QUERIES))
    if name != "clip_adapter":
        np.testing.assert_array_equal(fit(name, {}, key=key)(QUERIES), fit(name, {})(QUERIES))


def test_clip_adapter_depends_on_the_key():
    features, labels, text, queries = references.large_example(5, 4)
    one, other = (fit("clip_adapter", {}, features, labels, text, key=jax.random.key(k))(queries) for k in (0, 1))
    assert np.abs(one - other).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear_probe", "linear_probe_text"])
def test_an_extended_probe_equals_a_fit_on_all_examples(name):
    some = LABELS < 3
    begun = fit(name, {}, FEATURES[some], LABELS[some], TEXT[:3])
    extended = begun.extend(FEATURES[~some], LABELS[~some], class_text_features=TEXT[3:])
    ordered = (np.concatenate([v[some], v[~some]]) for v in (FEATURES, LABELS))
    assert_close(extended(QUERIES), fit(name, {}, *ordered, TEXT)(QUERIES), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_extend_continues_from_the_state_and_starts_new_classes_from_their_text(name):
    some = LABELS < 3
    stop = {"iterations": 0} if name.startswith("linear_probe") else {"steps": 0}
    begun = fit(name, {}, FEATURES[some], LABELS[some], TEXT[:3])
    stopped = dataclasses.replace(begun, adapter=dataclasses.replace(begun.adapter, **stop))
    extended = stopped.extend(FEATURES[:1], [0], class_text_features=TEXT[3:])
    assert_close(extended(QUERIES)[:, 3:], zero_shot()[:, 3:], 1e-5)
    for array, before in zip(extended.state.values(), begun.state.values(), strict=True):
        assert_close(array[: len(before)], np.asarray(before), 1e-5)
    if name not in ("linear_probe", "linear_probe_text"):
        trained = begun.extend(FEATURES[:1], [0], class_text_features=TEXT[3:])
        support = trained.support
        assert mean_loss(trained(support.features), support) < mean_loss(extended(support.features), support)


@pytest.mark.parametrize("name", TRAINED[2:])
def test_vmap_over_settings_and_support_sets_equals_single_fits(name):
    setting, *_ = adapt.find(name).grid or ("text_start",)
    values = jnp.array([1.0, 2.0]) * getattr(adapt.create(name), setting)
    supports = [
        make_support(FEATURES, np.roll(LABELS, i), class_text_features=TEXT, logit_scale=SCALE) for i in range(2)
    ]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *supports)

    @jax.jit
    def logits(value, support):
        return adapt.create(name, **{setting: value}).fit_support(support)(QUERIES)

    together = jax.vmap(logits)(values, stack)
    for i, value in enumerate(values):
        assert_close(
            together[i], np.asarray(fit(name, {setting: float(value)}, labels=np.roll(LABELS, i))(QUERIES)), 1e-4
        )


@pytest.mark.parametrize("name", TRAINED[1:])
def test_padding_does_not_change_training(name):
    support = make_support(FEATURES, LABELS, class_text_features=TEXT, logit_scale=SCALE)
    padded = Support(
        jnp.concatenate([support.features[:9], -support.features[:4], support.features[9:]]),
        jnp.concatenate([support.labels[:9], jnp.full(4, -1), support.labels[9:]]),
        support.class_text_features,
        support.logit_scale,
        num_classes=6,
    )
    logits = jax.jit(lambda support: adapt.create(name).fit_support(support)(QUERIES))(padded)
    assert_close(logits, np.asarray(fit(name, {})(QUERIES)), 1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_one_class_with_examples_or_identical_examples_give_finite_logits(name):
    for labels in ([0, 0, 0], [0, 1, 1]):
        features = np.repeat(FEATURES[:1], len(labels), axis=0)
        assert np.isfinite(fit(name, {}, features, labels, TEXT[:2])(QUERIES)).all()


def test_descend_without_steps_returns_its_start_and_minimize_reaches_the_minimum():
    def bowl(v):
        return jnp.sum(jnp.arange(1.0, 4.0) * jnp.square(v - 2))

    np.testing.assert_array_equal(descend(bowl, jnp.ones(3), learning_rate=0.1, steps=0), jnp.ones(3))
    np.testing.assert_allclose(minimize(bowl, jnp.ones(3), iterations=50), 2.0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("linear_probe", {"c": 0.0}, r"c 0\.0 is not positive"),
        ("linear_probe_text", {"iterations": -1}, "iterations -1 is less than 0"),
        ("lp_plus_plus", {"momentum": 1.0}, r"momentum 1\.0 is not less than 1; use a value in \[0, 1\)"),
        ("clap", {"constraint": -1.0}, r"constraint -1\.0 is less than 0"),
        ("tip_adapter_f", {"steps": 1.5}, r"steps 1\.5 is not an integer"),
        ("clip_adapter", {"ratio": 1.5}, r"ratio 1\.5 is outside \[0, 1\]"),
        ("clip_adapter", {"reduction": 0}, "reduction 0 is less than 1"),
        ("taskres", {"learning_rate": 0.0}, r"learning_rate 0\.0 is not positive"),
        ("rla", {"constraint": -1.0}, r"constraint -1\.0 is less than 0"),
    ],
)
def test_settings_outside_their_range_raise(name, settings, message):
    with pytest.raises(ValueError, match=message):
        adapt.create(name, **settings)

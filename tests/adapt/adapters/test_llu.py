"""Localized Latent Updates and its gate: logits, gradients and the exact properties."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adapt
from adapt.adapters.local_updates.llu import Llu, centers_of, parameters_of
from adapt.adapters.local_updates.rbf_gate import closeness, cluster
from adapt.adapters.support import make_support
from tests.adapt.adapters import references

FEATURES, LABELS, TEXT, QUERIES = references.example()
SUPPORT = make_support(FEATURES, LABELS, class_text_features=TEXT)
FAST = {"learning_rate": 0.01, "steps": 20, "reg": 1.0}
ZERO_SHOT = adapt.create("zero_shot").fit(FEATURES, LABELS, class_text_features=TEXT)


def fit(**settings):
    return adapt.create("llu", **(FAST | settings)).fit(FEATURES, LABELS, class_text_features=TEXT)


def reference(state, settings, text, scale=100.0):
    """Return the logits of `QUERIES` by the equations of the docstring of `Llu`, in float64."""
    image, present = np.asarray(state["centers_image"], np.float64), np.asarray(state["centers_image_present"])
    words, known = np.asarray(state["centers_text"], np.float64), np.asarray(state["centers_text_present"])
    damp = settings.get("damp", 1.0)
    if "damp" in state:
        damp = 1 / (1 + np.exp(-np.float64(state["damp"])))

    def near(v, centers):
        return np.exp(settings["rbf"] * np.clip(1 - max(c @ v for c in centers), 0, 1))

    def move(v, tower, gate):
        if f"{tower}_weights" not in state:
            return v
        weights, bias = (np.asarray(state[f"{tower}_{part}"], np.float64) for part in ("weights", "bias"))
        return references.unit(gate * references.unit(weights @ v + bias) + (1 - gate) * v)

    nears = np.array([near(x, image[present]) for x in references.unit(QUERIES)])
    text_nears = np.array([near(w, words[known]) for w in references.unit(text)])
    felt = nears
    if settings.get("gate") == "batch_max":
        nears[:], text_nears[:], felt = nears.max(), text_nears.max(), np.ones(len(nears))
    rows = []
    for x, gate, share in zip(references.unit(QUERIES), nears, felt, strict=True):
        y = move(x, "image", damp * gate)
        moved = [move(w, "text", damp * g) for w, g in zip(references.unit(text), text_nears, strict=True)]
        pairs = zip(references.unit(text), moved, strict=True)
        rows.append([scale * (y @ w + share * (y @ (m - w))) for w, m in pairs])
    return np.array(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"rbf": -4.0},
        {"rbf": -1.0, "damp": 0.6, "damping": "learned"},
        {"rbf": -4.0, "centers": "union", "clusters": 5},
        {"rbf": -2.0, "towers": "image"},
        {"rbf": -2.0, "towers": "text", "damp": 0.5},
        {"rbf": -4.0, "gate": "batch_max"},
    ],
)
def test_logits_equal_float64_loops_with_the_trained_parameters(settings):
    classifier = fit(**settings)
    theirs = reference(classifier.state, settings, TEXT)
    np.testing.assert_allclose(classifier(QUERIES), theirs, atol=1e-5 * np.abs(theirs).max())
    assert np.abs(np.asarray(classifier(QUERIES) - ZERO_SHOT(QUERIES))).max() > 0.1


def widen(leaf):
    leaf = np.asarray(leaf)
    return jnp.asarray(leaf, jnp.float64 if np.issubdtype(leaf.dtype, np.floating) else leaf.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"damp": 0.5, "damping": "learned"}, {"towers": "image"}, {"rbf": 0.0}])
def test_gradient_equals_finite_differences_of_the_loss(settings):
    adapter = adapt.create("llu", rbf=settings.pop("rbf", -3.0), reg=2.0, **settings)
    state = adapter.fit_state(SUPPORT, key=None)
    parameters = jax.tree.map(
        lambda leaf: leaf + 0.1 * np.random.default_rng(0).normal(size=leaf.shape), parameters_of(state)
    )
    with jax.enable_x64(True):
        parameters, support, state = jax.tree.map(widen, (parameters, SUPPORT, state))
        centers = centers_of(state)

        def loss(parameters):
            return adapter.loss(parameters, support, state["classes"], centers)

        gradient = jax.grad(loss)(parameters)
        along = jax.tree.map(lambda leaf: jnp.asarray(np.random.default_rng(1).normal(size=leaf.shape)), parameters)
        moved = [loss(jax.tree.map(lambda p, a, e=e: p + e * a, parameters, along)) for e in (1e-3, -1e-3)]
        slope = sum(jnp.sum(g * a) for g, a in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True))
    assert float(slope) == pytest.approx(float(moved[0] - moved[1]) / 2e-3, rel=1e-3)


def test_without_training_logits_are_zero_shot():
    np.testing.assert_allclose(fit(steps=0)(QUERIES), ZERO_SHOT(QUERIES), atol=3e-5)


def test_without_centers_logits_are_zero_shot_bit_for_bit():
    empty = SUPPORT.without(jnp.ones(len(LABELS), bool))
    classifier = adapt.create("llu", **FAST).fit_support(empty)
    np.testing.assert_array_equal(classifier(QUERIES), ZERO_SHOT(QUERIES))


@pytest.mark.parametrize("name", ["llu", "local"])
@pytest.mark.parametrize("settings", [{"rbf": -1e4}, {"rbf": -16.0, "damp": 0.0}])
def test_far_queries_keep_zero_shot_logits_bit_for_bit_and_duplicates_do_not(name, settings):
    settings = settings | (FAST if name == "llu" else {"alpha": 1000.0})
    classifier = adapt.create(name, **settings).fit(FEATURES, LABELS, class_text_features=TEXT)
    queries = np.concatenate([QUERIES, FEATURES[:3]])
    logits, before = np.asarray(classifier(queries)), np.asarray(ZERO_SHOT(queries))
    np.testing.assert_array_equal(logits[:11], before[:11])
    assert (np.abs(logits[11:] - before[11:]).max(axis=1) > 0.1).all() == ("damp" not in settings)


def test_gate_decreases_with_the_distance_to_the_nearest_center():
    center, aside = np.eye(7)[0], np.eye(7)[1]
    angles = np.linspace(0, np.pi, 50)
    x = jnp.asarray(np.cos(angles)[:, None] * center + np.sin(angles)[:, None] * aside, jnp.float32)
    centers = jnp.asarray(np.stack([center, -aside, aside]), jnp.float32)
    gate = closeness(x, centers, jnp.array([True, False, False]), -5.0)[:, 0]
    assert gate[0] == 1 and (np.diff(gate) <= 0).all()
    np.testing.assert_allclose(gate, np.exp(-5 * np.clip(1 - np.cos(angles), 0, 1)), rtol=1e-5)
    assert (closeness(x, centers, jnp.zeros(3, bool), -5.0) == 0).all()


@pytest.mark.slow
def test_with_an_open_gate_llu_is_the_regularised_linear_adapter():
    classifier = fit(rbf=0.0)
    x, w, labels = SUPPORT.features, SUPPORT.class_text_features, SUPPORT.labels

    def logits(maps, x):
        y = [v @ maps[name].T + maps[f"{name}_bias"] for name, v in (("image", x), ("text", w))]
        return 100 * (y[0] / jnp.linalg.norm(y[0], axis=1)[:, None]) @ (y[1] / jnp.linalg.norm(y[1], axis=1)[:, None]).T

    def loss(maps):
        start = {"image": jnp.eye(7), "text": jnp.eye(7), "image_bias": jnp.zeros(7), "text_bias": jnp.zeros(7)}
        away = sum(jnp.mean((maps[name] - start[name]) ** 2) for name in maps)
        known = jnp.delete(logits(maps, x), 4, axis=1, assume_unique_indices=True)  # class 4 has no examples
        return -jnp.mean(jax.nn.log_softmax(known)[jnp.arange(len(labels)), labels - (labels > 4)]) + away

    maps = {"image": jnp.eye(7), "text": jnp.eye(7), "image_bias": jnp.zeros(7), "text_bias": jnp.zeros(7)}
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, 20))
    state = optimizer.init(maps)
    for _ in range(20):
        updates, state = optimizer.update(jax.grad(loss)(maps), state)
        maps = optax.apply_updates(maps, updates)
    theirs = logits(maps, jnp.asarray(references.unit(QUERIES), jnp.float32))
    np.testing.assert_allclose(classifier(QUERIES), theirs, atol=2e-2)


def test_gate_batch_max_depends_on_the_other_queries_and_per_sample_does_not():
    classifier = fit(gate="batch_max", rbf=-4.0)
    alone = np.concatenate([classifier(query[None]) for query in QUERIES])
    assert np.abs(alone - np.asarray(classifier(QUERIES))).max() > 0.1
    single = fit(rbf=-4.0)
    alone = np.concatenate([single(query[None]) for query in QUERIES])
    np.testing.assert_allclose(alone, single(QUERIES), atol=1e-3)
    assert classifier.adapter.transductive and not single.adapter.transductive
    assert not adapt.methods()["llu"]["transductive"]
    with pytest.raises(ValueError, match="local"):
        adapt.create("local", inner=classifier.adapter)


def test_training_lowers_the_loss_and_is_deterministic():
    adapter = adapt.create("llu", **FAST)
    before, after = adapt.create("llu", **(FAST | {"steps": 0})).fit_state(SUPPORT, key=None), fit().state
    centers = centers_of(after)
    losses = [adapter.loss(parameters_of(state), SUPPORT, after["classes"], centers) for state in (before, after)]
    assert losses[1] < 0.8 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, fit().state, after)


def test_without_text_llu_uses_class_means():
    start = adapt.create("llu", steps=0).fit(FEATURES, LABELS, num_classes=6)
    means = adapt.create("prototypes").fit(FEATURES, LABELS, num_classes=6)
    np.testing.assert_allclose(start(QUERIES), means(QUERIES), atol=1e-4)
    trained = adapt.create("llu", **FAST).fit(FEATURES, LABELS, num_classes=6)
    right = np.mean(np.argmax(trained(FEATURES), axis=1) == LABELS)
    assert right >= np.mean(np.argmax(means(FEATURES), axis=1) == LABELS)
    assert set(parameters_of(trained.state)) == {"image_weights", "image_bias"}


def test_clusters_equal_scipy_complete_linkage():
    from scipy.cluster.hierarchy import fcluster, linkage

    rng = np.random.default_rng(3)
    rows = jnp.asarray(references.unit(rng.normal(size=(40, 6))), jnp.float32)
    present = jnp.arange(40) % 9 != 4
    for count in (1, 7, 36, 50):
        centers, there = jax.jit(cluster, static_argnums=2)(rows, present, count)
        kept = np.asarray(rows)[np.asarray(present)].astype(np.float64)
        groups = fcluster(linkage(kept, "complete", "cosine"), count, "maxclust")
        theirs = np.stack([references.unit(kept[groups == group].sum(axis=0)) for group in np.unique(groups)])
        ours = np.asarray(centers)[np.asarray(there)]
        assert len(ours) == len(theirs) == min(count, len(kept))
        np.testing.assert_allclose(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)], atol=1e-5)


def test_local_with_an_open_gate_is_the_inner_adapter():
    inner = adapt.create("gda", alpha=1.0).fit(FEATURES, LABELS, class_text_features=TEXT)
    for given in ({"inner": "gda", "alpha": 1.0}, {"inner": adapt.create("gda", alpha=1.0)}):
        outer = adapt.create("local", rbf=0.0, **given).fit(FEATURES, LABELS, class_text_features=TEXT)
        np.testing.assert_allclose(outer(QUERIES), inner(QUERIES), rtol=1e-5, atol=1e-3)


def test_select_searches_the_settings_of_the_inner_adapter():
    chosen = adapt.select("local", FEATURES, LABELS, class_text_features=TEXT, inner="gda", rbf=-1.0)
    assert chosen.settings == [{"alpha": alpha} for alpha in adapt.find("gda").grid["alpha"]]
    assert chosen.adapter.rbf == -1.0 and chosen.selected_by == "4-fold cross-validation on the support"
    assert isinstance(adapt.create("llu"), Llu)

"""The objective against plain float64 loops, values and gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.objective import Objective, contextualize, normalize, sigmoid_loss, softmax_loss

SCALARS = {
    "logit_scale": 1.3,
    "logit_bias": -2.1,
    "context_logit_scale": 0.7,
    "context_logit_bias": -1.4,
    "context_temperature": math.log(0.2),
}


def reference(base, alpha, scalars, u, v):
    """Returns the loss of raw embeddings by the equations of the docstrings, in float64 loops."""
    n, dim = u.shape

    def unit(rows):
        return np.stack([row / math.sqrt(sum(value * value for value in row)) for row in rows])

    def loss(x, t, scale, bias):
        z = [[math.exp(scale) * float(x[i] @ t[j]) for j in range(n)] for i in range(n)]
        if base == "sigmoid":
            signs = [[1 if i == j else -1 for j in range(n)] for i in range(n)]
            return sum(math.log1p(math.exp(-signs[i][j] * (z[i][j] + bias))) for i in range(n) for j in range(n)) / n
        rows = [math.log(sum(math.exp(z[i][j]) for j in range(n))) - z[i][i] for i in range(n)]
        columns = [math.log(sum(math.exp(z[i][j]) for i in range(n))) - z[j][j] for j in range(n)]
        return sum(rows) / (2 * n) + sum(columns) / (2 * n)

    x, t = unit(u), unit(v)
    context = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        divisor = math.exp(scalars["context_temperature"]) * math.sqrt(dim)
        weights = [math.exp(float(x[i] @ x[j]) / divisor) for j in others]
        context.append(sum(w * u[j] for w, j in zip(weights, others, strict=True)) / sum(weights))
    return alpha * loss(x, t, scalars["logit_scale"], scalars["logit_bias"]) + (1 - alpha) * loss(
        unit(context), t, scalars["context_logit_scale"], scalars["context_logit_bias"]
    )


def numeric_gradient(function, point, step=1e-6):
    """Returns the central differences of a scalar function at a float64 array."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        for sign in (1, -1):
            moved = point.copy()
            moved[index] += sign * step
            gradient[index] += sign * function(moved) / (2 * step)
    return gradient


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("count", "dim"), [(2, 3), (7, 5), (11, 24)])
def test_values_and_gradients_equal_float64_loops(base, count, dim):
    rng = np.random.default_rng(count)
    u, v = rng.normal(size=(count, dim)), rng.normal(size=(count, dim))
    objective = Objective(base=base, alpha=0.6)

    def ours(scalars, u, v):
        return objective(scalars, u, v).value

    arguments = ({name: jnp.float32(value) for name, value in SCALARS.items()}, jnp.float32(u), jnp.float32(v))
    value, (d_scalars, d_u, d_v) = jax.value_and_grad(ours, argnums=(0, 1, 2))(*arguments)
    assert abs(value - reference(base, 0.6, SCALARS, u, v)) < 1e-5 * abs(value)
    assert relative(d_u, numeric_gradient(lambda at: reference(base, 0.6, SCALARS, at, v), u)) < 1e-4
    assert relative(d_v, numeric_gradient(lambda at: reference(base, 0.6, SCALARS, u, at), v)) < 1e-4
    for name in SCALARS:
        numeric = numeric_gradient(
            lambda at, name=name: reference(base, 0.6, {**SCALARS, name: float(at)}, u, v), np.array(SCALARS[name])
        )
        assert abs(d_scalars[name] - numeric) < 1e-4 * max(abs(numeric), 1e-2), name


@pytest.mark.parametrize("loss", [sigmoid_loss, softmax_loss])
def test_a_perfect_match_costs_nothing_at_a_large_scale(loss):
    x = jnp.eye(5)
    assert loss(x, x, jnp.log(200.0), jnp.float32(-100.0)) < 1e-5
    assert loss(x, x[::-1], jnp.log(200.0), jnp.float32(-100.0)) > 10


def test_without_context_only_the_base_loss_and_its_scalars_are_left():
    objective = Objective(context=False)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    scalars = objective.init(6)
    loss = objective(scalars, u, u)
    assert set(scalars) == {"logit_scale", "logit_bias"}
    assert loss.value == sigmoid_loss(normalize(u), normalize(u), scalars["logit_scale"], scalars["logit_bias"])
    assert set(loss.metrics) == {"loss", "base_loss", "logit_scale", "logit_bias"}


def test_no_item_attends_to_itself_and_values_are_raw():
    u = jnp.array([[3.0, 0.0], [0.0, 5.0]])
    np.testing.assert_allclose(contextualize(u, jnp.float32(0.0)).embeddings, u[::-1], rtol=1e-6)


@pytest.mark.parametrize(("temperature", "items"), [(1e3, 9.0), (1e-4, 1.0)])
def test_effective_items_run_from_one_to_all_others(temperature, items):
    u = jnp.asarray(np.random.default_rng(0).normal(size=(10, 6)), jnp.float32)
    effective = contextualize(u, jnp.log(temperature)).effective_items
    np.testing.assert_allclose(effective, np.full(10, items), rtol=1e-3)


def test_initial_scalars_are_stored_as_logarithms():
    scalars = Objective(logit_scale=10.0, logit_bias=-7.0, context_temperature=0.1).init(64)
    np.testing.assert_allclose(scalars["logit_scale"], math.log(10), rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(scalars["context_temperature"]) * 8, 0.1, rtol=1e-5)
    assert scalars["logit_bias"] == scalars["context_logit_bias"] == -7.0


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
@pytest.mark.parametrize("logit_scale", [1e-3, 1e3])
@pytest.mark.parametrize("context_temperature", [1e-3, 10.0])
def test_extremes_duplicates_and_zero_rows_stay_finite(base, logit_scale, context_temperature):
    objective = Objective(base=base, logit_scale=logit_scale, context_temperature=context_temperature)
    u = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    u[1], u[2] = u[0], 0.0

    def loss(scalars, u, v):
        return objective(scalars, u, v).value

    results = jax.value_and_grad(loss, argnums=(0, 1, 2))(objective.init(8), jnp.asarray(u), jnp.zeros((6, 8)) + u[3])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


def test_a_batch_of_one_cannot_attend():
    with pytest.raises(ValueError, match="batch of at least 2"):
        contextualize(jnp.ones((1, 4)), jnp.float32(0.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "triplet"}, "known: sigmoid, softmax"),
        ({"alpha": 1.5}, "objective.alpha 1.5"),
        ({"context_temperature": 0.0}, "objective.context_temperature 0.0 is not positive"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(**settings)

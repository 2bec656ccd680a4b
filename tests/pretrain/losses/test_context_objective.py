"""The objective equals its float64 reference, and the reference equals plain loops."""

import functools
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pretrain.losses import reference
from pretrain.losses.context_objective import Objective, mean_cosines
from pretrain.losses.contextual_attention import contextualize
from pretrain.losses.contrastive import Scales, base_loss
from pretrain.losses.pairwise_blocks import BlockLayout

GATHER, RING = BlockLayout.gather_limit, 0
TREATMENTS = ["negative", "positive", "ignored"]  # of equal texts
SCALARS = {
    "logit_scale": 1.3,
    "logit_bias": -2.1,
    "context_logit_scale": 0.7,
    "context_logit_bias": -1.4,
    "context_temperature": math.log(0.2),
}


def embeddings(count, dim):
    """Return float64 image and text embeddings of various lengths; matched pairs are similar."""
    rng = np.random.default_rng(count + dim)
    u = rng.normal(size=(count, dim)) * rng.uniform(0.5, 3, size=(count, 1))
    return u, 1.3 * rng.normal(size=(count, dim)) + u


def repeated_tokens(count):
    """Return tokens `[count, 3]` of texts that occur about twice each, in no order."""
    rng = np.random.default_rng(count)
    return rng.integers(0, 50, (1 + count // 2, 3), np.int32)[rng.integers(0, 1 + count // 2, count)]


def loops(objective, scalars, u, v, tokens):
    """Return the loss of raw embeddings by the equations of the papers, in float64 loops."""
    (n, dim), alpha = u.shape, objective.alpha
    equal = [[tuple(tokens[i]) == tuple(tokens[j]) for j in range(n)] for i in range(n)]
    if objective.equal_texts == "positive":
        positives = [[j for j in range(n) if equal[i][j]] for i in range(n)]
    else:
        positives = [[i] for i in range(n)]
    counted = [
        [j for j in range(n) if j == i or not equal[i][j] or objective.equal_texts != "ignored"] for i in range(n)
    ]

    def unit(rows):
        return np.stack([row / math.sqrt(sum(value * value for value in row)) for row in rows])

    def loss(x, t, scale, bias):
        z = [[math.exp(scale) * float(x[i] @ t[j]) for j in range(n)] for i in range(n)]
        if objective.base == "sigmoid":
            signs = [[1 if j in positives[i] else -1 for j in range(n)] for i in range(n)]
            return sum(math.log1p(math.exp(-signs[i][j] * (z[i][j] + bias))) for i in range(n) for j in counted[i]) / n
        rows, columns = [], []
        for i in range(n):  # the positives of a text are the images of its positives
            log_sum = math.log(sum(math.exp(z[i][j]) for j in counted[i]))
            rows.append(sum(log_sum - z[i][j] for j in positives[i]) / len(positives[i]))
            log_sum = math.log(sum(math.exp(z[j][i]) for j in counted[i]))
            columns.append(sum(log_sum - z[j][i] for j in positives[i]) / len(positives[i]))
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


def reference_gradients(objective, scalars, u, v, tokens, devices=1, step=0):
    """Return the reference loss and its gradients by scalars, u and v, in float64."""
    with jax.enable_x64(True):
        arguments = (
            {name: jnp.asarray(np.float64(value)) for name, value in scalars.items()},
            *map(jnp.asarray, (u, v)),
        )
        loss = functools.partial(reference.objective_loss, objective, tokens=tokens, devices=devices, step=step)
        return jax.tree.map(np.asarray, jax.value_and_grad(loss, argnums=(0, 1, 2))(*arguments))


def errors(objective, u, v, devices=1, step=0):
    """Return the relative error of the value and the largest one of the gradients, on a number of devices.

    `step` is the number of steps taken before.
    """
    scalars = {name: jnp.float32(value) for name, value in SCALARS.items() if name in objective.init(u.shape[1])}
    mesh = jax.make_mesh(
        (devices // min(devices, 2), min(devices, 2)),
        ("data", "fsdp"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=jax.devices()[:devices],
    )
    place, tokens = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), repeated_tokens(len(u))
    arguments = (scalars, *(jax.device_put(rows, place) for rows in (np.float32(u), np.float32(v), tokens)))

    def loss(scalars, u, v, tokens, step):
        return objective(scalars, u, v, tokens=tokens, mesh=mesh, step=step).value

    ours = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arguments, jnp.int32(step))
    theirs = reference_gradients(objective, {name: SCALARS[name] for name in scalars}, u, v, tokens, devices, step)
    found = jax.tree_util.tree_map_with_path(
        lambda path, a, b: float(np.linalg.norm(np.asarray(a, np.float64) - b) / max(np.linalg.norm(b), 1e-2)),
        dict(zip(("value", "gradients"), ours, strict=True)),
        dict(zip(("value", "gradients"), theirs, strict=True)),
    )
    return {"value": found["value"], "gradients": max(jax.tree.leaves(found["gradients"]))}


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
@pytest.mark.parametrize("equal_texts", TREATMENTS)
def test_reference_equals_loops(base, equal_texts):
    u, v = embeddings(7, 5)
    objective, tokens = Objective(base=base, alpha=0.6, equal_texts=equal_texts), repeated_tokens(7)
    value, _ = reference_gradients(objective, SCALARS, u, v, tokens)
    assert value == pytest.approx(loops(objective, SCALARS, u, v, tokens), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    ("equal_texts", "count", "dim", "block_size"),
    [
        *(("negative", *sizes) for sizes in ((2, 3, None), (7, 24, 3), (65, 1152, 32), (16, 64, 1))),
        *((treatment, 33, 40, 8) for treatment in TREATMENTS),
    ],
)
def test_blocks_equal_the_reference_for_uneven_tails(base, equal_texts, count, dim, block_size):
    objective = Objective(base=base, alpha=0.6, equal_texts=equal_texts, block_size=block_size)
    found = errors(objective, *embeddings(count, dim))
    assert found["value"] < 1e-6 and found["gradients"] < 1e-5, found


@pytest.mark.slow
@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
@pytest.mark.parametrize("equal_texts", TREATMENTS)
def test_bfloat16_operands_are_within_two_percent_of_the_reference(base, equal_texts):
    objective = Objective(base=base, alpha=0.6, equal_texts=equal_texts, dtype="bfloat16", block_size=16)
    found = errors(objective, *embeddings(40, 96))
    assert found["value"] < 2e-2 and 1e-5 < found["gradients"] < 2e-2, found


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        *({"context": False, "equal_texts": treatment} for treatment in TREATMENTS),
        {"context": False, "base": "softmax", "equal_texts": "positive"},
        {"self_mask": False},
        {"stop_gradient": ("values",)},
        {"stop_gradient": ("keys",)},
        {"stop_gradient": ("keys", "values")},
        {"normalized_values": True},
        {"normalized_values": True, "stop_gradient": ("values",)},
        {"shared_logit_scale": True},
        {"shared_logit_scale": True, "self_mask": False, "equal_texts": "positive"},
        {"buffer": "device", "base": "softmax"},
    ],
    ids=str,
)
def test_each_option_equals_the_reference(options):
    found = errors(Objective(**{"alpha": 0.5, "block_size": 5, **options}), *embeddings(13, 24))
    assert found["value"] < 1e-6 and found["gradients"] < 1e-5, found


def errors_on_devices():
    """Print the errors for each way of sharding a batch over eight devices."""
    cases = [
        (Objective(base=base, alpha=0.6, block_size=block, gather_limit=limit), devices, rows * devices)
        for base, devices, rows, block in (
            ("sigmoid", 2, 7, 3),
            ("sigmoid", 8, 1, None),
            ("sigmoid", 8, 5, 2),
            ("softmax", 8, 5, 2),
        )
        for limit in (GATHER, RING)
    ]
    cases += [
        (Objective(base=base, alpha=0.6, equal_texts=treatment, block_size=2, gather_limit=limit), devices, 5 * devices)
        for base, devices in (("sigmoid", 8), ("softmax", 2))
        for treatment in ("positive", "ignored")
        for limit in (GATHER, RING)
    ]
    cases += [(Objective(alpha=0.6, buffer="device", gather_limit=limit), 8, 24) for limit in (GATHER, RING)]
    cases += [
        (Objective(alpha=0.6, equal_texts="positive", dtype="bfloat16", gather_limit=limit), 8, 24)
        for limit in (GATHER, RING)
    ]
    for objective, devices, count in cases:
        found = errors(objective, *embeddings(count, 24), devices)
        case = [objective.base, objective.equal_texts, objective.buffer, objective.gather_limit, devices, count]
        print(json.dumps({"case": case, "dtype": objective.dtype, **found}))


@pytest.mark.slow
def test_several_devices_equal_the_reference_gathered_and_around_a_ring():
    program = "from tests.pretrain.losses.test_context_objective import errors_on_devices; errors_on_devices()"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    output = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    lines = [json.loads(line) for line in output.stdout.splitlines()]
    assert len(lines) == 20
    for line in lines:
        exact = line["dtype"] == "float32"
        assert line["value"] < (1e-6 if exact else 2e-2) and line["gradients"] < (1e-5 if exact else 2e-2), line


def temporary_memory(batch, dim=768, **settings):
    """Return the bytes that the compiled value, metrics and gradients need in addition to inputs and results."""
    objective = Objective(**settings)
    rows, tokens = jax.ShapeDtypeStruct((batch, dim), jnp.float32), jax.ShapeDtypeStruct((batch, 64), jnp.int32)
    function, step = jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)), jnp.int32(0)
    compiled = function.lower(objective.init(dim), rows, rows, tokens=tokens, step=step).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_linearly_and_stays_under_400_mb_at_batch_32768():
    half, whole = (temporary_memory(batch, base="sigmoid") for batch in (16384, 32768))
    assert whole < 400e6
    assert whole < 2.1 * half
    assert temporary_memory(32768, base="softmax") < 400e6
    assert temporary_memory(32768, base="softmax", equal_texts="positive") < 400e6
    assert temporary_memory(32768, base="sigmoid", context=False) < 50e6


def test_a_million_pairs_compile():
    assert temporary_memory(1 << 20, dim=512, base="sigmoid") < 9e9  # inputs and results are 8.6 GB


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
def test_perfect_matches_have_zero_loss_at_a_large_scale(base):
    x, scales = jnp.eye(5), Scales(jnp.log(jnp.array([200.0])), jnp.array([-100.0]))
    assert base_loss(base, (x,), x, scales).value < 1e-5
    assert base_loss(base, (x,), x[::-1], scales).value > 10


def test_without_context_there_are_only_the_base_loss_and_its_scalars():
    objective = Objective(context=False)
    u, v = map(jnp.float32, embeddings(4, 6))
    scalars = objective.init(6)
    loss = objective(scalars, u, v)
    assert set(scalars) == {"logit_scale", "logit_bias"}
    assert set(loss.metrics) == {
        "loss", "base_loss", "logit_scale", "logit_bias", "positive_logit", "negative_logit"
    }  # fmt: skip


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
def test_metrics_are_the_parts_of_the_loss(base):
    objective = Objective(base=base, alpha=0.7)
    u, v = embeddings(9, 8)
    metrics = objective(
        {name: jnp.float32(value) for name, value in SCALARS.items()}, *map(jnp.float32, (u, v))
    ).metrics
    total = 0.7 * metrics["base_loss"] + 0.3 * metrics["context_loss"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)
    x, t = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (u, v))
    logits = math.exp(1.3) * x @ t.T + (-2.1 if base == "sigmoid" else 0.0)
    np.testing.assert_allclose(metrics["positive_logit"], np.diagonal(logits).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["negative_logit"], logits[~np.eye(9, dtype=bool)].mean(), rtol=1e-5)
    weights = reference.attention(jnp.float32(x), jnp.float32(x), 0.2)
    entropies = -jnp.sum(jax.scipy.special.xlogy(weights, weights), axis=1)
    np.testing.assert_allclose(metrics["effective_items"], jnp.exp(entropies).mean(), rtol=1e-5)
    assert metrics["context_temperature"] == pytest.approx(0.2)
    assert metrics["context_logit_scale"] == pytest.approx(math.exp(0.7))


def test_mean_cosines_of_a_single_pair_are_finite():
    assert all(map(np.isfinite, mean_cosines(jnp.ones((1, 3)), jnp.ones((1, 3)))))


def test_no_item_attends_to_itself_and_values_are_not_normalized():
    u = jnp.array([[3.0, 0.0], [0.0, 5.0]])
    np.testing.assert_allclose(contextualize(u, jnp.float32(0.0)).embeddings, u[::-1], rtol=1e-6)


@pytest.mark.parametrize(("temperature", "items"), [(1e3, 9.0), (1e-4, 1.0)])
def test_effective_items_range_from_one_to_all_other_items(temperature, items):
    u = jnp.asarray(np.random.default_rng(0).normal(size=(10, 6)), jnp.float32)
    effective = contextualize(u, jnp.log(temperature), layout=BlockLayout(block_size=4)).effective_items
    np.testing.assert_allclose(effective, np.full(10, items), rtol=1e-3)


def test_initial_scalars_are_stored_as_logarithms():
    scalars = Objective(logit_scale=10.0, logit_bias=-7.0, context_temperature=0.1).init(64)
    np.testing.assert_allclose(scalars["logit_scale"], math.log(10), rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(scalars["context_temperature"]) * 8, 0.1, rtol=1e-5)
    assert scalars["logit_bias"] == scalars["context_logit_bias"] == -7.0


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
@pytest.mark.parametrize("logit_scale", [1e-3, 1e3])
@pytest.mark.parametrize("context_temperature", [1e-3, 10.0])
def test_extreme_scales_duplicates_and_zero_rows_give_finite_gradients(base, logit_scale, context_temperature):
    objective = Objective(base=base, logit_scale=logit_scale, context_temperature=context_temperature, block_size=4)
    u = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    u[1], u[2] = u[0], 0.0

    def loss(scalars, u, v):
        return objective(scalars, u, v).value

    results = jax.value_and_grad(loss, argnums=(0, 1, 2))(objective.init(8), jnp.asarray(u), jnp.zeros((6, 8)) + u[3])
    zeros = jax.grad(loss, argnums=(1, 2))(objective.init(8), jnp.zeros((6, 8)), jnp.zeros((6, 8)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((results, zeros)))


def test_a_batch_of_one_raises():
    with pytest.raises(ValueError, match="batch of at least 2"):
        contextualize(jnp.ones((1, 4)), jnp.float32(0.0))
    with pytest.raises(ValueError, match="batch_size 1 leaves the context objective nothing to attend to"):
        Objective().check_batch(1, 1)
    with pytest.raises(ValueError, match="batch_size 8 on 8 devices, 1 per device, leaves"):
        Objective(buffer="device").check_batch(8, 8)
    Objective(context=False).check_batch(1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "triplet"}, r"unknown objective\.base 'triplet'\. Known: sigmoid, softmax"),
        ({"alpha": 1.5}, r"objective\.alpha is 1\.5; it must be a number from 0 to 1"),
        ({"context_temperature": 0.0}, r"objective\.context_temperature is 0\.0; it must be a positive, finite number"),
        ({"stop_gradient": "values"}, r"objective\.stop_gradient is 'values'; it must be a tuple of strings"),
        ({"stop_gradient": ("queries",)}, r"unknown objective\.stop_gradient 'queries'\. Known: values, keys"),
        ({"equal_texts": "left_out"}, r"unknown objective\.equal_texts 'left_out'\. .*negative, positive, ignored"),
        ({"buffer": "host"}, r"unknown objective\.buffer 'host'\. Known: global, device"),
        ({"dtype": "float16"}, r"unknown objective\.dtype 'float16'\. .* Known: float32, bfloat16"),
        ({"max_logit_scale": 0.5}, r"objective\.max_logit_scale is 0\.5; use at least 1, or 0 for no limit"),
        ({"max_logit_scale": -1.0}, r"objective\.max_logit_scale is -1\.0; it must be a finite number, 0 or more or"),
        ({"logit_bias": float("nan")}, r"objective\.logit_bias is nan; it must be a finite number"),
        ({"block_size": 0}, r"objective\.block_size is 0; it must be a positive whole number or None"),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(**settings)

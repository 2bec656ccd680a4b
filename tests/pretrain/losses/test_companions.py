"""The share of attention on companions equals a dense float64 reference."""

import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pretrain.losses import reference
from pretrain.losses.companions import measure_companions, measured_rows
from pretrain.losses.context_objective import Objective
from pretrain.losses.contextual_attention import ContextualAttention
from pretrain.losses.pairwise_blocks import BlockLayout


def embeddings(batch, dim=24, concepts=6):
    """Return image and text embeddings of images that share concepts."""
    rng = np.random.default_rng(batch)
    concept = rng.integers(concepts, size=batch)
    return tuple(rng.normal(size=(concepts, dim))[concept] + 0.7 * rng.normal(size=(batch, dim)) + 2 for _ in range(2))


def dense(u, v, temperature, *, self_mask, devices=1):
    """Return the share of attention on companions and their mean number, of the measured rows, in float64.

    Images attend to those on their own one of `devices`.
    """
    rows = measured_rows(len(u))
    with jax.enable_x64(True):
        x = reference.normalize(jnp.asarray(u))
        allowed = ~jnp.eye(len(u), dtype=bool) if self_mask else jnp.ones((len(u), len(u)), bool)
        device = jnp.arange(len(u)) // (len(u) // devices)
        allowed &= device[:, None] == device
        weights = np.asarray(reference.attention(x, x, temperature, allowed=allowed))
    t = v / np.linalg.norm(v, axis=1, keepdims=True)
    t = t - t.mean(axis=0)
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    similar = (t @ t.T >= 0.5) & ~np.eye(len(u), dtype=bool)
    return (weights * similar)[:rows].sum() / rows, similar[:rows].sum() / rows


@pytest.mark.parametrize("batch", [2, 40, 600])
@pytest.mark.parametrize("self_mask", [True, False])
def test_the_share_equals_the_dense_float64_reference(batch, self_mask):
    u, v = embeddings(batch)
    found = measure_companions(
        jnp.float32(u),
        jnp.float32(v),
        jnp.float32(math.log(0.01)),
        attention=ContextualAttention(self_mask=self_mask),
        layout=BlockLayout(),
    )
    expected = dense(u, v, 0.01, self_mask=self_mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert batch < 40 or expected[0] > 1.5 * expected[1] / batch  # attention finds companions


def test_equal_texts_are_companions_and_the_share_reaches_one():
    concept = np.repeat(np.arange(8), 8)
    u = v = jnp.eye(8)[concept]
    found = measure_companions(u, v, jnp.float32(-9.0), attention=ContextualAttention(), layout=BlockLayout())
    np.testing.assert_allclose(found, [1.0, 7.0], rtol=1e-5)


def test_the_objective_logs_the_share_without_changing_its_gradient():
    u, v = map(jnp.float32, embeddings(32))
    objective = Objective(context_temperature=0.05)
    scalars = objective.init(24)
    metrics = objective(scalars, u, v).metrics
    expected = dense(np.float64(u), np.float64(v), 0.05 / math.sqrt(24), self_mask=True)
    np.testing.assert_allclose([metrics["companion_attention"], metrics["companions_per_row"]], expected, rtol=1e-4)
    gradient = jax.grad(lambda u: objective(scalars, u, v).metrics["companion_attention"])(u)
    assert not np.any(gradient)


@pytest.mark.parametrize(("batch", "rows"), [(2, 2), (256, 16), (1024, 32), (4096, 128), (32768, 32), (1 << 20, 16)])
def test_few_rows_of_a_large_batch_are_measured(batch, rows):
    assert measured_rows(batch) == rows


def shares_on_devices():
    """Print the logged measure of a batch that is sharded over four devices, for both buffers."""
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    u, v = (
        jax.device_put(np.float32(rows), NamedSharding(mesh, PartitionSpec(mesh.axis_names))) for rows in embeddings(80)
    )
    for buffer in ("global", "device"):
        objective = Objective(context_temperature=0.05, buffer=buffer)
        metrics = jax.jit(lambda u, v, o=objective: o(o.init(24), u, v, mesh=mesh).metrics)(u, v)
        print(json.dumps([buffer, float(metrics["companion_attention"]), float(metrics["companions_per_row"])]))


@pytest.mark.slow
def test_a_sharded_batch_has_the_same_shares():
    program = "from tests.pretrain.losses.test_companions import shares_on_devices; shares_on_devices()"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    output = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    lines = [json.loads(line) for line in output.stdout.splitlines()]
    assert [buffer for buffer, *_ in lines] == ["global", "device"]
    for buffer, *found in lines:
        devices = 4 if buffer == "device" else 1
        expected = dense(*embeddings(80), 0.05 / math.sqrt(24), self_mask=True, devices=devices)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

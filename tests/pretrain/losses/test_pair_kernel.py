"""The Pallas kernel equals the float64 reference in Pallas's interpreter, compiles for GPUs, and refuses the rest."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from pretrain.losses.context_objective import Objective
from pretrain.losses.pair_tiles import Tile, choose_tile
from tests.pretrain.losses.test_context_objective import GATHER, RING, SCALARS, embeddings, errors

ROOT = pathlib.Path(__file__).parents[3]
needs_cuda_plugin = pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_{cuda}_plugin") for cuda in ("cuda12", "cuda13")),
    reason="JAX's CUDA plugin is not installed (requirements-compile-cuda12.txt)",
)


def interpreted(**settings):
    return Objective(alpha=0.6, implementation="pallas_interpreted", **settings)


def run(program, **environment):
    """Return what a Python program prints in a process of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, *program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_kernel_equals_the_reference_for_uneven_tails():
    found = errors(interpreted(context=False, equal_texts="positive"), *embeddings(40, 24))
    assert found["value"] < 1e-6 and found["gradients"] < 1e-5, found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "count", "dim"),
    [
        ({"equal_texts": "negative"}, 33, 3),
        ({"equal_texts": "positive"}, 70, 96),
        ({"equal_texts": "ignored"}, 70, 96),
        ({"context": False, "equal_texts": "ignored"}, 70, 768),
        ({"context": False}, 33, 1152),
        ({"shared_logit_scale": True, "block_size": 5}, 13, 24),
    ],
    ids=str,
)
def test_the_kernel_equals_the_reference(settings, count, dim):
    found = errors(interpreted(**settings), *embeddings(count, dim))
    assert found["value"] < 1e-6 and found["gradients"] < 1e-5, found


@pytest.mark.slow
@pytest.mark.parametrize("equal_texts", ["negative", "positive", "ignored"])
def test_the_kernel_in_bfloat16_is_within_two_percent_of_the_reference(equal_texts):
    found = errors(interpreted(equal_texts=equal_texts, dtype="bfloat16"), *embeddings(40, 96))
    assert found["value"] < 2e-2 and 1e-5 < found["gradients"] < 2e-2, found


def errors_on_two_devices():
    """Print the errors for batches that are gathered, or passed around a ring."""
    for limit in (GATHER, RING):
        for equal_texts in ("negative", "ignored"):
            objective = interpreted(equal_texts=equal_texts, gather_limit=limit)
            print(json.dumps(errors(objective, *embeddings(26, 24), devices=2)))


@pytest.mark.slow
def test_the_kernel_on_two_devices_equals_the_reference_gathered_and_around_a_ring():
    program = "from tests.pretrain.losses.test_pair_kernel import errors_on_two_devices; errors_on_two_devices()"
    lines = [json.loads(line) for line in run(["-c", program], JAX_NUM_CPU_DEVICES="2").splitlines()]
    assert len(lines) == 4
    for found in lines:
        assert found["value"] < 1e-6 and found["gradients"] < 1e-5, found


def test_the_loss_alone_equals_the_loss_with_gradients():
    u, v = map(jnp.float32, embeddings(40, 24))
    scalars = {name: SCALARS[name] for name in ("logit_scale", "logit_bias")}
    alone, expected = (
        jax.jit(lambda *inputs, objective=objective: objective(*inputs).value)(scalars, u, v)
        for objective in (interpreted(context=False), Objective(context=False))
    )
    assert float(alone) == pytest.approx(float(expected), rel=1e-6)


def test_the_kernel_is_refused_without_gpus():
    objective = Objective(context=False, implementation="pallas", dtype="bfloat16")
    with pytest.raises(ValueError, match="is for NVIDIA GPUs, and the batch is on cpu devices"):
        objective(objective.init(4), *embeddings(6, 4))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"base": "softmax", "dtype": "bfloat16"}, "is for the sigmoid loss, but objective.base is 'softmax'"),
        ({"dtype": "float32"}, "computes in bfloat16 only, but objective.dtype is float32"),
        ({"implementation": "palas"}, "objective.implementation"),
    ],
    ids=["softmax", "float32", "unknown"],
)
def test_what_the_kernel_cannot_compute_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Objective(**{"implementation": "pallas", **settings})


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0"])
def test_common_dimensions_have_a_tile_on_every_card(capability):
    for dim in (3, 64, 96, 512, 768, 1024, 1152):
        tile = choose_tile(dim, capability)
        assert tile.width(dim) >= dim and tile.width(dim) % tile.chunk == 0
        assert tile.width(dim) <= max(16, 1.34 * dim)


def test_dimensions_without_a_tile_are_refused():
    with pytest.raises(ValueError, match="cannot hold embeddings of 20000 dimensions on a GPU of compute"):
        choose_tile(20_000, "9.0")


COMPILE = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from pretrain.losses.equal_texts import EqualTexts
from pretrain.losses.pair_kernel import sum_over_columns
from pretrain.losses.pair_tiles import Tile
from pretrain.losses.pairwise_losses import PAIRWISE_LOSSES
from pretrain.compilation.devices import describe_devices

described = describe_devices(sys.argv[1])
tile = Tile(*map(int, sys.argv[2:]))
sharding = SingleDeviceSharding(described.devices[0])
array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
per_row = {"inverse": array(jnp.float32, 256), "index": array(jnp.int32, 256), "equal_texts": EqualTexts()}
side = {"embeddings": array(jnp.bfloat16, 256, 768)} | per_row
loss = lambda *inputs: sum_over_columns(PAIRWISE_LOSSES["sigmoid"], *inputs, tile=tile)
try:
    jax.jit(loss).lower(side, side, array(jnp.float32, 2)).compile(compiler_options=dict(described.compiler_options))
    print("compiled")
except jax.errors.JaxRuntimeError as error:
    print(error)
"""


@pytest.mark.slow
@needs_cuda_plugin
@pytest.mark.parametrize(
    ("topology", "capability"), [("a100:1", "8.0"), ("h100:1", "9.0"), ("l4:1", "8.9"), ("b200:1", "10.0")]
)
def test_the_chosen_tile_is_assembled(topology, capability):
    tile = choose_tile(768, capability)
    assert "compiled" in run(["-c", COMPILE, topology, *map(str, tile)])


@pytest.mark.slow
@needs_cuda_plugin
def test_a_tile_too_large_for_shared_memory_fails_with_the_bytes_that_were_counted():
    tile = Tile(128, 64, 256, 1)
    page = run(["-c", COMPILE, "h100:1", *map(str, tile)])
    assert "Shared memory size limit exceeded: requested 294912" in page
    assert 294_912 <= tile.shared_memory(768, reads_operands=True) <= 1.2 * 294_912

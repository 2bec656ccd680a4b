"""The training step: pure, sharded, and the same on any number of devices."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.preprocessing import Preprocessing
from models.settings import ModelSettings, TextSettings, VisionSettings
from models.towers import create_model
from pretrain import sharding
from pretrain.objective import Objective
from pretrain.optimizer import OptimizerSettings, create_optimizer, create_schedule
from pretrain.step import create_training

SETTINGS = ModelSettings(
    vision=VisionSettings(image_size=8, patch_size=4, width=16, depth=2, heads=2, mlp_width=32),
    text=TextSettings(vocab_size=40, length=5, width=16, depth=1, heads=2, mlp_width=32),
)


def training(mesh, *, base="sigmoid"):
    return create_training(
        create_model(SETTINGS),
        Objective(base=base),
        create_optimizer(OptimizerSettings(learning_rate=1e-2), steps=20),
        dim=16,
        preprocessing=Preprocessing(image_size=8),
        mesh=mesh,
        seed=0,
    )


def batch(step):
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (16, 8, 8, 3), np.uint8)
    return {"images": images, "tokens": rng.integers(0, 40, (16, 5), np.int32)}


def losses(fsdp, base="sigmoid", steps=5):
    """Trains on the devices there are; returns the losses and the norm of the parameters."""
    mesh = sharding.create_mesh(fsdp)
    compiled = training(mesh, base=base)
    state, found = compiled.init(), []
    for step in range(steps):
        state, metrics = compiled.step(state, sharding.place_batch(batch(step), mesh))
        found.append(float(metrics["loss"]))
    norm = float(jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(state.parameters))))
    kernel = state.parameters["model"]["vision"]["encoder"]["layers"]["mlp"]["up"]["kernel"]
    return {"losses": found, "norm": norm, "shard": list(kernel.addressable_shards[0].data.shape)}


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
def test_eight_devices_give_the_losses_of_one(base):
    single = losses(1, base)
    program = (
        "import json; from tests.pretrain.test_step import losses;"
        f"print(json.dumps([losses(fsdp, {base!r}) for fsdp in (1, 4)]))"
    )
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    copied, split = json.loads(output.stdout.splitlines()[-1])
    for eight in (copied, split):
        np.testing.assert_allclose(eight["losses"], single["losses"], rtol=1e-5)
        np.testing.assert_allclose(eight["norm"], single["norm"], rtol=1e-5)
    assert single["losses"][-1] < single["losses"][0]
    assert copied["shard"] == [2, 16, 32] and split["shard"] == [2, 4, 32]


def test_a_step_leaves_no_trace_but_its_result():
    mesh = sharding.create_mesh()
    compiled = training(mesh)
    placed = sharding.place_batch(batch(0), mesh)
    first, _ = compiled.step(compiled.init(), placed)
    second, _ = compiled.step(compiled.init(), placed)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))
    assert int(first.step) == 1


def test_weight_decay_spares_norms_biases_and_scalars():
    parameters = {"model": create_model(SETTINGS).init(0), "objective": Objective().init(16)}
    optimizer = create_optimizer(OptimizerSettings(learning_rate=1.0, weight_decay=0.5), steps=4)
    nothing = jax.tree.map(jnp.zeros_like, parameters)
    updates, _ = optimizer.update(nothing, optimizer.init(parameters), parameters)
    decayed = {
        sharding.path_name(path).rsplit("/", 1)[-1]
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(leaf != 0)
    }
    assert decayed == {"kernel", "probe", "position_embedding", "token_embedding"}


def test_the_schedule_warms_up_then_falls_to_zero():
    schedule = create_schedule(OptimizerSettings(learning_rate=2.0, warmup_steps=4), 20)
    assert [float(schedule(step)) for step in (0, 2, 4)] == [0.0, 1.0, 2.0]
    assert float(schedule(12)) == pytest.approx(1.0) and float(schedule(20)) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="warmup_steps 30 does not fit a run of 20 steps"):
        create_schedule(OptimizerSettings(warmup_steps=30), 20)


def test_scalars_can_learn_at_another_rate():
    parameters = {"model": {"kernel": jnp.ones((2, 2))}, "objective": {"logit_scale": jnp.ones(())}}
    gradients = jax.tree.map(jnp.ones_like, parameters)
    optimizer = create_optimizer(OptimizerSettings(learning_rate=0.1, scalar_learning_rate=3.0, weight_decay=0.0), 4)
    updates, _ = optimizer.update(gradients, optimizer.init(parameters), parameters)
    np.testing.assert_allclose(updates["objective"]["logit_scale"], 3 * updates["model"]["kernel"][0, 0], rtol=1e-6)


def test_a_batch_or_mesh_that_does_not_fit_names_what_does():
    class Eight:
        size = 8

    with pytest.raises(ValueError, match="batch_size 1001 is not divisible by 8 devices; nearest: 1000 or 1008"):
        sharding.check_batch_size(1001, Eight)
    with pytest.raises(ValueError, match="nearest: 8"):
        sharding.check_batch_size(5, Eight)
    with pytest.raises(ValueError, match=r"mesh\.fsdp 3 does not divide the 1 devices here; it can be 1"):
        sharding.create_mesh(3)


def test_every_array_needs_a_rule():
    with pytest.raises(ValueError, match="no sharding rule matches a/b"):
        sharding.tree_shardings({"a": {"b": jnp.ones(3)}}, sharding.create_mesh(), rules=())

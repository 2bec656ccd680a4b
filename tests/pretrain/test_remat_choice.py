"""Choice of the rematerialization policy by the memory of a device."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import types
from typing import get_args

import jax
import numpy as np
import pytest

from models.config import ModelSettings, Remat, TextSettings, VisionSettings
from models.preprocessing import Preprocessing
from models.rematerialization import OFFLOADED
from models.towers import create_model
from pretrain.config.run import read_settings
from pretrain.config.training import RunSettings
from pretrain.distributed.sharding import create_mesh
from pretrain.losses.context_objective import Objective
from pretrain.optim.optimizer import OptimizerSettings
from pretrain.remat_choice import CANDIDATES, GB, choose_remat, estimate_peak, memory_limit
from pretrain.train_step import abstract_batch, build_train_step, create_train_step
from tests.logged import logged
from tests.pretrain.tiny import config

ROOT = pathlib.Path(__file__).parents[2]
WIDE = {"width": 768, "depth": 12, "heads": 12, "mlp_width": 3072}
B16 = ModelSettings(
    vision=VisionSettings(image_size=224, patch_size=16, **WIDE),
    text=TextSettings(vocab_size=32_000, length=64, **WIDE),
    dtype="bfloat16",
)


def run(batch_size, **changes):
    return RunSettings(
        seed=0, steps=10, batch_size=batch_size, objective=Objective(), optimizer=OptimizerSettings(), **changes
    )


@pytest.fixture(scope="module")
def state():
    mesh = create_mesh(devices=jax.devices()[:1])
    step = create_train_step(
        create_model(B16, mesh=mesh),
        Objective(),
        OptimizerSettings(),
        steps=10,
        dim=768,
        preprocessing=Preprocessing(size=(224, 224)),
        mesh=mesh,
        seed=0,
    )
    return step.abstract_state


def choose(settings, state, memory):
    fused = dataclasses.replace(B16, attention="cudnn")
    return choose_remat(settings, fused, create_mesh(devices=jax.devices()[:1]), state=state, memory=memory)


def test_less_memory_takes_policies_with_more_arithmetic(state):
    taken = [choose(run(1024), state, memory=gigabytes * 10**9).remat for gigabytes in range(5, 300)]
    order = [CANDIDATES.index(remat) for remat in taken]
    assert order == sorted(order, reverse=True)
    assert {"none", "minimal_with_context", "save_dot_except_mlp", "save_qkv_proj", "save_out_proj", "full"} <= {*taken}


def test_the_reason_names_the_memory_and_the_arithmetic(state):
    choice = choose(run(1024), state, memory=70 * 10**9)
    assert choice.remat == "minimal_with_context" and choice.reason.startswith(
        "remat=auto takes minimal_with_context: "
    )
    assert "of 70.0 GB, 0.0% more arithmetic than none" in choice.reason
    choice = choose(run(65_536), state, memory=64 * 10**9)
    assert choice.remat == "full" and "which may not fit" in choice.reason and "microbatch_size" in choice.reason


def test_microbatches_count_instead_of_the_batch(state):
    assert choose(run(65_536, microbatch_size=512), state, memory=64 * 10**9).remat != "full"


def test_without_a_known_limit_everything_is_kept(state):
    assert memory_limit(create_mesh(devices=jax.devices()[:1])) is None  # CPUs report none
    choice = choose(run(1024), state, memory=None)
    assert choice.remat == "none" and "memory of the device is not known" in choice.reason


def test_a_step_is_built_with_the_policy_that_fits_the_described_memory():
    tiny = read_settings(config("none.tar", remat="auto"))
    mesh = create_mesh(devices=jax.devices()[:1])
    for memory, remat in ((10**12, "none"), (10**3, "full")):
        with logged() as messages:
            step = build_train_step(tiny, mesh, model=tiny.model(60), memory=memory)
        assert messages[0].startswith(f"remat=auto takes {remat}")
        assert step == build_train_step(tiny, mesh, model=dataclasses.replace(tiny.model(60), remat=remat))


def test_only_training_runs_choose_a_policy():
    model = create_model(dataclasses.replace(B16, remat="auto", attention="cpu"))
    parameters = jax.eval_shape(lambda: model.init(0))
    with pytest.raises(ValueError, match="remat 'auto' is for training runs"):
        jax.eval_shape(model.embed_texts, parameters, jax.ShapeDtypeStruct((2, 64), "int32"))


# Peaks of programs compiled for one card with `launch.py compile`, in GB.
@pytest.mark.parametrize(
    ("capability", "batch_size", "remat", "peak"),
    [
        ("9.0", 512, "full", 9.65),
        ("9.0", 512, "save_dot_except_mlp", 20.69),
        ("9.0", 4096, "full", 50.8),
        ("9.0", 4096, "minimal", 195),
        ("8.0", 4096, "full", 60.6),
    ],
)
def test_estimates_are_at_least_the_compiled_peaks_and_not_much_more(state, capability, batch_size, remat, peak):
    fused = dataclasses.replace(B16, attention="cudnn")
    card = types.SimpleNamespace(compute_capability=capability)
    mesh = types.SimpleNamespace(size=1, devices=np.array([card]))
    estimate = estimate_peak(run(batch_size), fused, mesh, state=state, remat=remat) / GB
    assert peak <= estimate < 1.35 * peak


def print_steps_on_two_devices():
    """Print the gradient norm of a step with every policy, its parameters sharded over two devices."""
    mesh = create_mesh(2)
    for remat in get_args(Remat):
        if remat in ("auto", OFFLOADED):
            continue
        settings = read_settings(config("none.tar", remat=remat, mesh={"fsdp": 2}, augmentation={}))
        training = build_train_step(settings, mesh, model=settings.model(60))
        random = np.random.default_rng(0)
        shapes = abstract_batch(settings, mesh)
        batch = {
            name: jax.device_put(random.integers(1, 60, shape.shape).astype(shape.dtype), shape.sharding)
            for name, shape in shapes.items()
        }
        result = training.step(training.init(), batch)
        print(json.dumps([remat, float(result.metrics["loss"]), float(result.metrics["gradient_norm"])]))


@pytest.mark.slow
def test_every_policy_computes_the_same_step_on_two_devices_with_sharded_parameters():
    program = "from tests.pretrain.test_remat_choice import print_steps_on_two_devices; print_steps_on_two_devices()"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    steps = {remat: values for remat, *values in map(json.loads, done.stdout.splitlines())}
    assert len(steps) == len(get_args(Remat)) - 2
    for remat, values in steps.items():
        np.testing.assert_allclose(values, steps["none"], rtol=1e-5, err_msg=remat)

"""A context loss that starts later: plain before its start, then the float64 reference; resumed to the same bits."""

import json
import math
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.align.train import align
from pretrain.distributed import sharding
from pretrain.losses.context_objective import Objective
from pretrain.losses.pairwise_blocks import BlockLayout
from pretrain.monitoring.metric_writer import read_metrics
from pretrain.train import pretrain
from pretrain.train_step import update_scalars
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.align.tiny import align_config, write_features
from tests.pretrain.losses.test_context_objective import SCALARS, embeddings, errors, temporary_memory
from tests.pretrain.test_train import fail_at
from tests.pretrain.test_train_step import equations, trained, training
from tests.pretrain.tiny import config, metrics_without_times, same_parameters

START, RAMP = 3, 2
SCHEDULE = {"alpha": 0.4, "context_start_step": START, "context_ramp_steps": RAMP}
ALPHAS = [1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.4]  # of the first seven steps


def gradients(objective, step=None):
    """Return the loss, its metrics and its gradients by scalars, images and texts."""
    u, v = map(jnp.float32, embeddings(9, 8))
    scalars = {name: jnp.float32(value) for name, value in SCALARS.items() if name in objective.init(8)}

    def loss(scalars, u, v):
        return objective(scalars, u, v, step=step)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(scalars, u, v)


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
def test_before_the_start_value_and_gradients_are_those_of_the_base_loss(base):
    (value, metrics), (d_scalars, *d_embeddings) = gradients(Objective(base=base, **SCHEDULE), jnp.int32(START - 1))
    (plain, plain_metrics), (plain_scalars, *plain_embeddings) = gradients(Objective(base=base, context=False))
    assert value == plain and metrics["alpha"] == 1 and math.isnan(metrics["context_loss"])
    assert {name: metrics[name] for name in plain_metrics} == plain_metrics
    assert all(map(np.array_equal, d_embeddings, plain_embeddings))
    assert d_scalars == plain_scalars | {name: 0 for name in d_scalars if name.startswith("context_")}


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
@pytest.mark.parametrize("step", [START, START + RAMP])
def test_during_and_after_the_ramp_value_and_gradients_equal_the_reference(base, step):
    found = errors(Objective(base=base, block_size=5, **SCHEDULE), *embeddings(13, 24), step=step)
    assert found["value"] < 1e-6 and found["gradients"] < 1e-5, found


def test_alpha_is_one_then_linear_then_constant():
    objective = Objective(**SCHEDULE)
    assert [float(objective.alpha_at(step)) for step in range(7)] == pytest.approx(ALPHAS)
    assert gradients(objective, jnp.int32(START))[0][1]["alpha"] == pytest.approx(ALPHAS[START])
    assert Objective().alpha_at(None) == 0.9
    with pytest.raises(ValueError, match="context_start_step is 3; pass step="):
        gradients(objective)


def test_before_the_start_nothing_is_computed_for_the_context():
    def products(objective):
        rows = jnp.ones((4, 8))
        loss = jax.make_jaxpr(lambda step: objective(objective.init(8), rows, rows, step=step))(jnp.int32(0))
        [choice] = [each for each in equations(loss.jaxpr) if each.primitive.name == "cond"] or [None]
        jaxprs = [loss.jaxpr] if choice is None else [branch.jaxpr for branch in choice.params["branches"]]
        return [sum(each.primitive.name == "dot_general" for each in equations(jaxpr)) for jaxpr in jaxprs]

    assert products(Objective(**SCHEDULE)) == products(Objective(context=False)) + products(Objective())


def test_memory_for_a_later_start_stays_under_600_mb_at_batch_32768():
    assert temporary_memory(32768, **SCHEDULE) < 600e6


@pytest.mark.parametrize(
    "given",
    [{"weight_decay": 0.5, "weight_decay_rules": (("^objective/", 1.0),)}, {"name": "lion", "microbatches": 4}],
    ids=str,
)
def test_until_the_start_towers_train_as_without_context_and_its_scalars_follow_the_base_loss(given):
    mesh, scheduled = sharding.create_mesh(), Objective(**SCHEDULE)
    initial = training(mesh, objective=scheduled, **given).init().parameters["objective"]
    state, found = trained(mesh, steps=START, objective=scheduled, **given)
    plain, expected = trained(mesh, steps=START, objective=Objective(context=False), **given)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, state.parameters["model"], plain.parameters["model"])))
    assert [metrics["loss"] for metrics in found] == [metrics["loss"] for metrics in expected]
    scalars = state.parameters["objective"]
    assert {name: scalars[name] for name in plain.parameters["objective"]} == plain.parameters["objective"]
    assert scalars["context_temperature"] == initial["context_temperature"]
    for name in ("logit_scale", "logit_bias"):
        assert scalars[f"context_{name}"] == scalars[name] != initial[name]
    state, found = trained(mesh, steps=START + 2, objective=scheduled, **given)
    for name in ("logit_scale", "logit_bias"):
        assert found[START][f"context_{name}"] == found[START][name]
    assert state.parameters["objective"]["context_temperature"] != initial["context_temperature"]


@pytest.mark.parametrize("shared", [False, True])
def test_frozen_scalars_and_the_temperature_do_not_follow_the_base_loss(shared):
    objective = Objective(**SCHEDULE, base="softmax", shared_logit_scale=shared)
    before = {name: jnp.float32(1.0) for name in objective.init(8)}
    after = {name: jnp.float32(9.0) for name in before}
    frozen = {name: name == "context_logit_bias" for name in before}
    parts = types.SimpleNamespace(objective=objective, frozen={"objective": frozen})
    limit = jnp.float32(math.log(100.0))
    for step, temperature in ((START - 1, 1.0), (START, 9.0)):
        expected = {"logit_scale": limit, "logit_bias": 9.0, "context_temperature": temperature}
        if not shared:
            expected |= {"context_logit_scale": limit, "context_logit_bias": 1.0}
        given = after if shared else after | {"context_logit_bias": before["context_logit_bias"]}  # as a frozen one is
        assert update_scalars(parts, given, before=before, step=jnp.int32(step)) == expected


def losses_on_devices():
    """Print the errors of the loss in each phase and the losses of training, for ways of sharding a batch."""
    for base in ("sigmoid", "softmax"):
        for limit in (BlockLayout.gather_limit, 0):
            objective = Objective(base=base, gather_limit=limit, **SCHEDULE)
            for step in (START - 1, START, START + RAMP):
                print(json.dumps(errors(objective, *embeddings(24, 24), devices=8, step=step)))
            fsdp, microbatches = (4, 2) if limit else (1, 1)
            _, found = trained(sharding.create_mesh(fsdp), 7, objective=objective, microbatches=microbatches)
            print(json.dumps({"base": base, "losses": [each["loss"] for each in found]}))


@pytest.mark.slow
def test_several_devices_equal_the_reference_and_train_as_one():
    program = "from tests.pretrain.losses.test_context_schedule import losses_on_devices; losses_on_devices()"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    output = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    lines = [json.loads(line) for line in output.stdout.splitlines()]
    compared, runs = [line for line in lines if "value" in line], [line for line in lines if "losses" in line]
    assert len(compared) == 12 and len(runs) == 4
    assert all(line["value"] < 1e-6 and line["gradients"] < 1e-5 for line in compared), compared
    for base in ("sigmoid", "softmax"):
        _, one = trained(sharding.create_mesh(), 7, objective=Objective(base=base, **SCHEDULE))
        for run in runs:
            if run["base"] == base:
                np.testing.assert_allclose(run["losses"], [each["loss"] for each in one], rtol=1e-5)


def test_a_run_that_fails_around_the_start_resumes_to_the_same_bits(tmp_path, monkeypatch, said):
    shards = str(write_shard(tmp_path / "s.tar", labelled(21)))
    values = config(shards, objective={"base": "sigmoid", **SCHEDULE}, microbatch_size=4)
    pretrain(values, tmp_path / "whole", data_dir=tmp_path)
    assert "context loss: starts after step 3 (epoch 1.14), with its full weight from step 6 of 9" in said
    for broken_step in (3, 5):  # saved before the start, and during the ramp
        with monkeypatch.context() as broken:
            broken.setattr("pretrain.loop.check_loss", fail_at(broken_step))
            with pytest.raises(OSError, match="it broke"):
                pretrain(values, tmp_path / "broken", data_dir=tmp_path)
    assert pretrain(values, tmp_path / "broken", data_dir=tmp_path).start_step == 4
    assert same_parameters(tmp_path / "whole", tmp_path / "broken")
    assert metrics_without_times(tmp_path / "whole") == metrics_without_times(tmp_path / "broken")
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 9]
    assert [line["alpha"] for line in lines] == pytest.approx([1.0, 0.8, 0.4, 0.4, 0.4])
    context = {"context_loss", "context_temperature", "effective_items", "context_logit_scale"}
    assert not context & set(lines[0]) and all(context <= set(line) for line in lines[1:])


def test_aligned_runs_of_epochs_start_the_context_at_its_step(tmp_path):
    features = write_features(tmp_path)  # 24 pairs, three steps per epoch
    values = align_config(features, steps=None, epochs=2.0, log_every=1, objective=SCHEDULE)
    align(values, tmp_path / "run", data_dir=tmp_path)
    alphas = [line["alpha"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert alphas == pytest.approx(ALPHAS[:6])


MESSAGE = r"objective\.context_start_step 3 and context_ramp_steps 2 together are not below the run's 5 steps"


def test_a_run_that_ends_before_the_full_weight_stops_before_anything_is_written(tmp_path):
    objective = {"objective": SCHEDULE}
    shards = str(write_shard(tmp_path / "s.tar", labelled(20)))
    features = write_features(tmp_path)
    for length in ({"steps": 5}, {"steps": None, "examples": 40}, {"steps": None, "epochs": 2.0}):
        with pytest.raises(ValueError, match=MESSAGE):
            pretrain(config(shards, **length, **objective), tmp_path / "pretrain", data_dir=tmp_path)
        if length.get("epochs"):
            length = {**length, "epochs": 1.5}
        with pytest.raises(ValueError, match=MESSAGE):
            align(align_config(features, **length, **objective), tmp_path / "align", data_dir=tmp_path)
    assert not list(tmp_path.glob("*/*.json"))
    Objective(**SCHEDULE).check_steps(START + RAMP + 1)
    Objective().check_steps(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context_start_step": -1}, r"context_start_step is -1; it must be a whole number, 0 or more"),
        ({"context_start_step": 0.5}, r"context_start_step is 0\.5; it must be a whole number, 0 or more"),
        ({"context_start_step": 5, "context_ramp_steps": -2}, r"context_ramp_steps is -2; it must be a whole number"),
        ({"context_ramp_steps": 4}, r"context_ramp_steps is 4, but context_start_step is 0.*Set context_start_step"),
        ({"context_start_step": 5, "context": False}, r"context_start_step is 5, but context is False"),
        ({"context_start_step": 5, "alpha": 1.0}, r"context_start_step is 5, but alpha is 1: no context loss starts"),
    ],
)
def test_schedules_that_do_nothing_raise(settings, message):
    with pytest.raises(ValueError, match=rf"objective\.{message}"):
        Objective(**settings)

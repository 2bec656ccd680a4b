"""The training step: pure, sharded, and the same on any number of devices."""

import dataclasses
import functools
import json
import math
import os
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from models.config import ModelSettings, TextSettings, VisionSettings
from models.preprocessing import Preprocessing
from models.towers import create_model
from pretrain.distributed import sharding
from pretrain.losses.context_objective import Objective
from pretrain.optim.optimizer import OptimizerSettings, create_optimizer, create_schedule
from pretrain.optim.param_rules import path_name
from pretrain.train_step import create_train_step, update_scalars

SETTINGS = ModelSettings(
    vision=VisionSettings(image_size=8, patch_size=4, width=16, depth=2, heads=2, mlp_width=32),
    text=TextSettings(vocab_size=40, length=5, width=16, depth=1, heads=2, mlp_width=32),
)


def training(mesh, *, base="sigmoid", objective=None, microbatches=1, settings=SETTINGS, rules=(), **optimizer):
    return create_train_step(
        create_model(settings, mesh=mesh),
        objective or Objective(base=base),
        OptimizerSettings(**{"learning_rate": 1e-2, **optimizer}),
        steps=20,
        dim=16,
        preprocessing=Preprocessing(size=(8, 8)),
        mesh=mesh,
        seed=0,
        microbatches=microbatches,
        rules=rules,
    )


def batch(step, texts=16):
    """Return a batch of 16 pairs with a number of different texts."""
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (16, 8, 8, 3), np.uint8)
    return {"images": images, "tokens": rng.integers(0, 40, (16, 5), np.int32)[np.arange(16) % texts]}


def trained(mesh, steps=5, texts=16, **settings):
    """Return the final state and the metrics of each step."""
    compiled = training(mesh, **settings)
    state, found = compiled.init(), []
    for step in range(steps):
        state, metrics = compiled.step(state, sharding.place_batch(batch(step, texts), mesh))
        found.append({name: float(value) for name, value in metrics.items()})
    return state, found


def losses(fsdp, microbatches=1, **settings):
    """Train on all devices; return the losses, the norm of the parameters and the shape of a shard."""
    mesh = sharding.create_mesh(fsdp)
    state, found = trained(mesh, microbatches=microbatches, **settings)
    norm = float(jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(state.parameters))))
    kernel = state.parameters["model"]["vision"]["encoder"]["layers"]["mlp"]["up"]["kernel"]
    shard = list(kernel.addressable_shards[0].data.shape)
    return {"losses": [metrics["loss"] for metrics in found], "norm": norm, "shard": shard}


def losses_of_repeated_texts(base, treatment, fsdp=1, microbatches=1):
    return losses(fsdp, microbatches, objective=Objective(base=base, equal_texts=treatment), texts=6)


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one_device():
    cases = [  # base loss, treatment of equal texts, fsdp, microbatches
        ("sigmoid", "negative", 1, 1),
        ("sigmoid", "negative", 4, 1),
        ("softmax", "negative", 4, 2),
        ("sigmoid", "positive", 4, 2),
        ("softmax", "positive", 2, 1),
        ("softmax", "ignored", 1, 2),
    ]
    program = (
        "import json; from tests.pretrain.test_train_step import losses_of_repeated_texts as losses;"
        f"print(json.dumps([losses(base, treatment, fsdp, parts) for base, treatment, fsdp, parts in {cases}]))"
    )
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    eights = json.loads(output.stdout.splitlines()[-1])
    single = {case: losses_of_repeated_texts(*case) for case in dict.fromkeys(case[:2] for case in cases)}
    for (base, treatment, fsdp, _), eight in zip(cases, eights, strict=True):
        one = single[base, treatment]
        np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-5)
        np.testing.assert_allclose(eight["norm"], one["norm"], rtol=1e-5)
        assert one["losses"][-1] < one["losses"][0]
        assert eight["shard"] == [2, 16 // fsdp, 32]


def test_a_step_is_a_pure_function():
    mesh = sharding.create_mesh()
    compiled = training(mesh)
    placed = sharding.place_batch(batch(0), mesh)
    first, _ = compiled.step(compiled.init(), placed)
    second, _ = compiled.step(compiled.init(), placed)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))
    assert int(first.step) == 1


@functools.cache
def parameters():
    return {"model": create_model(SETTINGS).init(0), "objective": Objective().init(16)}


def updates(gradient=0.0, steps=4, **settings):
    """Return the first update of each parameter by name, for a gradient of the same value everywhere."""
    optimizer = create_optimizer(OptimizerSettings(**{"learning_rate": 1.0, **settings}), steps, parameters())
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), parameters())
    found, _ = optimizer.update(gradients, optimizer.init(parameters()), parameters())
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(found)}


@pytest.mark.parametrize(
    ("base", "maximum", "limit"),
    [
        ("softmax", None, 100.0),
        ("softmax", 0, None),
        ("softmax", 20, 20.0),
        ("sigmoid", None, None),
        ("sigmoid", 20, 20.0),
    ],
)
def test_the_logit_scales_are_clamped_after_the_update_as_in_clip(base, maximum, limit):
    scales = {"low": -3.0, "in": math.log(15.0), "high": math.log(1e4)}
    objective = Objective(base=base, max_logit_scale=maximum)
    for value in scales.values():
        scalars = {name: jnp.float32(value) for name in objective.init(16)}
        clamped = objective.clamp(scalars)
        for name, before in scalars.items():
            is_scale = limit is not None and name.endswith("logit_scale")
            expected = np.clip(before, np.float32(0), np.float32(math.log(limit))) if is_scale else before
            assert clamped[name] == expected


def test_a_frozen_scale_is_not_clamped():
    objective = Objective(base="softmax")
    scalars = {name: jnp.float32(math.log(120.0)) for name in objective.init(16)}
    frozen = {name: name == "context_logit_scale" for name in scalars}
    context = types.SimpleNamespace(objective=objective, frozen={"objective": frozen})
    assert update_scalars(context, scalars, before=scalars, step=jnp.int32(0)) == scalars | {
        "logit_scale": jnp.float32(math.log(100.0))
    }


@pytest.mark.slow
def test_a_step_clamps_trained_scales_only():
    mesh, given = sharding.create_mesh(), {"objective": Objective(base="softmax", logit_scale=120.0)}
    state, metrics = trained(mesh, steps=2, **given)
    scales = [float(jnp.exp(state.parameters["objective"][name])) for name in ("logit_scale", "context_logit_scale")]
    assert scales == pytest.approx([100.0, 100.0], rel=0.03) and max(scales) <= 100.0001
    assert metrics[0]["logit_scale"] == pytest.approx(120.0) and metrics[1]["logit_scale"] <= 100.0001
    state, _ = trained(mesh, steps=1, frozen=("^objective/",), **given)
    assert float(jnp.exp(state.parameters["objective"]["logit_scale"])) == pytest.approx(120.0)


def test_norms_biases_and_scalars_have_no_weight_decay():
    decayed = {name.rsplit("/", 1)[-1] for name, leaf in updates(weight_decay=0.5).items() if np.any(leaf != 0)}
    assert decayed == {"kernel", "probe", "position_embedding", "token_embedding"}


def test_weight_decay_rules_precede_the_default():
    rules = (("token_embedding$", 0.0), ("norm/scale$", 2.0))
    plain, ruled = updates(weight_decay=0.5), updates(weight_decay=0.5, weight_decay_rules=rules)
    assert not ruled["model/text/token_embedding"].any()
    np.testing.assert_allclose(ruled["model/text/encoder/norm/scale"], -1.0)
    same = [name for name in plain if not name.endswith(("token_embedding", "norm/scale"))]
    assert all(np.array_equal(plain[name], ruled[name]) for name in same)


def test_learning_rate_rules_and_factors_of_scalars_multiply_the_rate():
    settings = dict(scalar_learning_rate=3.0, context_temperature_learning_rate=5.0, weight_decay=0.0)
    found = updates(1.0, **settings, learning_rate_rules=(("vision/.*kernel$", 0.1), ("vision/", 0.2)))
    rates = {name: -float(leaf.mean()) for name, leaf in found.items()}
    unit = rates["model/text/head/kernel"]
    for name, rate in (
        ("model/vision/head/mlp/up/kernel", 0.1),
        ("model/vision/head/mlp/up/bias", 0.2),
        ("objective/logit_bias", 3.0),
        ("objective/context_temperature", 15.0),
    ):
        assert rates[name] == pytest.approx(rate * unit, rel=1e-5), name


def test_layer_decay_lowers_the_rate_of_lower_layers():
    found = updates(1.0, layer_decay=0.5, weight_decay=0.0, learning_rate_rules=(("probe$", 3.0),))
    unit = found["model/text/head/kernel"].mean()
    for name, rates in (
        ("model/vision/encoder/layers/mlp/up/kernel", [0.25, 0.5]),
        ("model/vision/encoder/layers/norm1/bias", [0.25, 0.5]),
        ("model/text/encoder/layers/attention/key/kernel", [0.5]),
        ("model/vision/patch_embedding/kernel", 0.125),
        ("model/vision/position_embedding", 0.125),
        ("model/text/token_embedding", 0.25),
        ("model/vision/encoder/norm/scale", 1.0),
        ("model/vision/head/mlp/up/kernel", 1.0),
        ("model/vision/head/probe", 3.0),
        ("objective/logit_scale", 1.0),
    ):
        leaf = found[name]
        each = leaf.reshape(len(leaf), -1).mean(axis=1) if "/layers/" in name else leaf.mean()
        np.testing.assert_allclose(each / unit, rates, rtol=1e-5, err_msg=name)
    with pytest.raises(ValueError, match=r"optimizer\.layer_decay is 1\.5; it must be a number from 0 to 1"):
        OptimizerSettings(layer_decay=1.5)


@pytest.mark.slow
@pytest.mark.parametrize(("tower", "other"), [("vision", "text"), ("text", "vision")])
def test_a_frozen_tower_is_unchanged_and_has_no_optimizer_state(tower, other):
    mesh = sharding.create_mesh()
    before = training(mesh).init()
    after, _ = trained(mesh, steps=2, frozen=(f"model/{tower}/",), weight_decay=0.1)
    old, new = before.parameters["model"], after.parameters["model"]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, old[tower], new[tower])))
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), old[other], new[other])
    assert np.mean(jax.tree.leaves(moved)) > 0.9
    locked, whole = (sum(leaf.size for leaf in jax.tree.leaves(state.optimizer_state)) for state in (after, before))
    assert whole - locked == 2 * sum(leaf.size for leaf in jax.tree.leaves(old[tower]))


def test_frozen_towers_are_not_differentiated():
    def flops(**settings):
        compiled = training(sharding.create_mesh(), **settings)
        placed = sharding.place_batch(batch(0), sharding.create_mesh())
        return compiled.step.lower(compiled.abstract_state, placed).compile().cost_analysis()["flops"]

    assert flops(frozen=("model/vision/",)) < 0.75 * flops()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_every_optimizer_reduces_the_loss(name):
    _, found = trained(sharding.create_mesh(), steps=8, name=name, learning_rate=3e-3)
    assert found[-1]["loss"] < found[0]["loss"]


def test_lion_and_adafactor_have_small_states():
    def floats(name):
        wide = {"model": {"kernel": jnp.zeros((64, 128))}, "objective": {}}
        state = create_optimizer(OptimizerSettings(name=name), 4, wide).init(wide)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / (4 * 64 * 128)

    assert floats("adamw") > 2 and 1 < floats("lion") < 1.01 and 0.5 < floats("adafactor") < 0.6


def test_cosine_schedule_warms_up_then_decays_to_zero():
    schedule = create_schedule(OptimizerSettings(learning_rate=2.0, warmup_steps=4), 20)
    assert [float(schedule(step)) for step in (0, 2, 4)] == [0.0, 1.0, 2.0]
    assert float(schedule(12)) == pytest.approx(1.0) and float(schedule(20)) == pytest.approx(0.0)


def test_rsqrt_schedule_halves_in_three_timescales_and_cools_down():
    settings = OptimizerSettings(schedule="rsqrt", learning_rate=2.0, warmup_steps=10, timescale=100, cooldown_steps=50)
    schedule = create_schedule(settings, 1000)
    assert [float(schedule(step)) for step in (0, 5, 10, 310)] == pytest.approx([0.0, 1.0, 2.0, 1.0])
    assert float(schedule(975)) == pytest.approx(float(schedule(950)) / 2, rel=0.02)
    assert float(schedule(1000)) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": 30}, "optimizer.warmup_steps 30 is not between 0 and the run's 20 steps"),
        (
            {"schedule": "rsqrt", "warmup_steps": 15, "cooldown_steps": 15},
            "optimizer.warmup_steps 15 and cooldown_steps 15 together are more than the run's 20 steps",
        ),
        ({"timescale": 0}, "optimizer.timescale is 0; it must be a positive whole number"),
        ({"learning_rate": -1e-3}, "optimizer.learning_rate is -0.001; it must be a finite number, 0 or more"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate is nan; it must be a finite number, 0 or more"),
        ({"weight_decay": -1e-4}, "optimizer.weight_decay is -0.0001; it must be a finite number, 0 or more"),
        ({"scalar_learning_rate": -1.0}, "optimizer.scalar_learning_rate is -1.0; it must be a finite number"),
        ({"context_temperature_learning_rate": -1.0}, "it must be a finite number, 0 or more"),
        ({"learning_rate_rules": (("text", -1.0),)}, "optimizer.learning_rate_rules[0][1] is -1.0; it must be"),
        ({"weight_decay_rules": (("text", -1.0),)}, "optimizer.weight_decay_rules[0][1] is -1.0; it must be"),
        ({"clip_norm": 0.0}, "optimizer.clip_norm is 0.0; it must be a number above 0, inf for no clipping"),
        ({"b1": 1.0}, "optimizer.b1 is 1.0; it must be a number from 0 to below 1"),
        ({"b2": -0.1}, "optimizer.b2 is -0.1; it must be a number from 0 to below 1"),
        ({"name": "sgd"}, "unknown optimizer.name 'sgd'. Known: adamw, lion, adafactor"),
        ({"schedule": "linear"}, "unknown optimizer.schedule 'linear'. Known: cosine, rsqrt"),
        ({"frozen": "model/"}, "optimizer.frozen is 'model/'; it must be a tuple of strings"),
        ({"frozen": ("model/visual/",)}, "rule 'model/visual/' matches no parameter. Nearest: model/vision/"),
        ({"learning_rate_rules": (("tokens", 0.0),)}, "learning_rate_rules rule 'tokens' matches no parameter"),
        ({"learning_rate_rules": ("tokens",)}, "is 'tokens'; it must be a pair of a pattern and a factor"),
        ({"weight_decay_rules": (("(", 0.0),)}, "is not a regular expression"),
    ],
)
def test_invalid_optimizer_settings_raise(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        settings = OptimizerSettings(**settings)
        create_schedule(settings, 20)
        create_optimizer(settings, 20, parameters())


def equations(jaxpr):
    """Yield the equations of a jaxpr and of the jaxprs in it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


def test_bfloat16_towers_multiply_in_bfloat16_with_float32_parameters():
    settings = dataclasses.replace(SETTINGS, dtype="bfloat16", attention="xla")
    model = create_model(settings)
    shapes = jax.eval_shape(lambda: model.init(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
    images, tokens = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 5), jnp.int32)
    products = [
        {variable.aval.dtype.name for variable in equation.invars}
        for equation in equations(jax.make_jaxpr(model.embed)(shapes, images, tokens).jaxpr)
        if equation.primitive.name == "dot_general"
    ]
    assert len(products) > 10 and all(dtypes == {"bfloat16"} for dtypes in products)
    assert {leaf.dtype.name for leaf in jax.eval_shape(model.embed, shapes, images, tokens)} == {"bfloat16"}


@pytest.mark.slow
def test_full_remat_needs_less_memory():
    def memory(remat):
        deep = dataclasses.replace(SETTINGS.vision, depth=8, image_size=32)
        compiled = create_train_step(
            create_model(dataclasses.replace(SETTINGS, vision=deep, remat=remat), mesh=sharding.create_mesh()),
            Objective(),
            OptimizerSettings(),
            steps=20,
            dim=16,
            preprocessing=Preprocessing(size=(32, 32)),
            mesh=sharding.create_mesh(),
            seed=0,
        )
        shapes = {"images": ((16, 32, 32, 3), np.uint8), "tokens": ((16, 5), np.int32)}
        placed = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
        analysis = compiled.step.lower(compiled.abstract_state, placed).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert memory("full") < 0.6 * memory("none")


def test_errors_name_batch_sizes_and_meshes_that_fit():
    class Eight:
        size = 8

    with pytest.raises(ValueError, match=r"batch_size 1001 is not divisible by 8 devices\. Use 1000 or 1008"):
        sharding.check_batch_size(1001, Eight)
    with pytest.raises(ValueError, match=r"Use 8\."):
        sharding.check_batch_size(5, Eight)
    with pytest.raises(ValueError, match=r"mesh\.fsdp 3 does not divide the 1 devices\. Use one of 1\."):
        sharding.create_mesh(3)


def test_errors_name_microbatch_sizes_that_fit():
    class Eight:
        size = 8

    sharding.check_batch_size(64, Eight, 16)
    with pytest.raises(ValueError, match=r"microbatch_size 24 does not split batch_size 64 .*\. Use 16 or 32\."):
        sharding.check_batch_size(64, Eight, 24)
    with pytest.raises(ValueError, match=r"microbatch_size 4 .*\. Use 8 or 16\."):
        sharding.check_batch_size(64, Eight, 4)


def test_sharding_rules_precede_the_default_and_must_fit():
    mesh = sharding.create_mesh()
    shapes = {"a": {"kernel": jnp.ones((2, 4))}, "b": jnp.ones(3)}
    specs = sharding.parameter_shardings(shapes, mesh, ((r"a/kernel", (None, "fsdp")),))
    assert specs["a"]["kernel"].spec == PartitionSpec(None, "fsdp") and specs["b"].spec == PartitionSpec()
    for rules, message in (
        ((("c/kernel", ()),), "mesh.rules rule 'c/kernel' matches no parameter. Nearest: a/kernel, b"),
        ((("b", (None, "fsdp")),), "more axes than b, which has shape"),
        ((("b", ("model",)),), "names an unknown axis 'model'; known: data, fsdp"),
    ):
        with pytest.raises(ValueError, match=message):
            sharding.parameter_shardings(shapes, mesh, rules)

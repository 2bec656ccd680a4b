"""Costs of rematerialization policies: counted from the architecture, and found in the traced gradient."""

import dataclasses
import functools
import math
from typing import get_args

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from models.config import ModelSettings, Remat, TextSettings, VisionSettings
from models.flops import count_forward_flops
from models.remat_costs import count_kept_bytes, count_offloaded_bytes, count_recomputed_flops
from models.towers import create_model

POLICIES = [name for name in get_args(Remat) if name != "auto"]
BATCH = 2
SETTINGS = ModelSettings(
    vision=VisionSettings(image_size=32, patch_size=8, width=48, depth=5, heads=3, mlp_width=160),
    text=TextSettings(vocab_size=50, length=8, width=32, depth=7, heads=2, mlp_width=128),
    dtype="bfloat16",
)


@pytest.fixture(params=["cpu", "xla", "cudnn"])
def attention(request, monkeypatch):
    """An implementation of attention; tracing cuDNN's needs its version number, but no GPU."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    return request.param


def inputs(model):
    parameters = jax.eval_shape(lambda: model.init(0))
    images = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)
    return parameters, images, jax.ShapeDtypeStruct((BATCH, 8), jnp.int32)


def pull_back(model, parameters, images, tokens):
    return jax.vjp(lambda each: model.embed(each, images, tokens), parameters)


def count_products(jaxpr):
    """Return the operations of the matrix products of a jaxpr, and of its fused attentions."""
    flops = 0
    for equation in jaxpr.eqns:
        name, shapes = equation.primitive.name, [variable.aval.shape for variable in equation.invars]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            flops += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[0][axis] for axis in contracted)
        elif name.startswith("dot_product_attention"):
            batch, queries, heads, head_dim = shapes[0]
            products = 2 if "fwd" in name else 4  # the backward kernel repeats the logits, which counts as part of it
            flops += products * 2 * batch * heads * queries * shapes[1][1] * head_dim
        inside = equation.params["length"] if name == "scan" else 1
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                flops += inside * count_products(getattr(inner, "jaxpr", inner))
    return flops


@functools.cache
def gradient_flops(settings):
    model = create_model(settings)

    def gradient(parameters, images, tokens):
        embeddings, pull = pull_back(model, parameters, images, tokens)
        return pull(embeddings)

    return count_products(jax.make_jaxpr(gradient)(*inputs(model)).jaxpr)


@pytest.mark.parametrize("remat", POLICIES)
def test_recomputed_operations_are_those_of_the_traced_gradient(attention, remat):
    settings = dataclasses.replace(SETTINGS, attention=attention, remat=remat)
    more = gradient_flops(settings) - gradient_flops(dataclasses.replace(settings, remat="none"))
    assert more == BATCH * count_recomputed_flops(settings, remat=remat)


@pytest.mark.parametrize("remat", POLICIES)
def test_kept_bytes_are_the_residuals_of_the_layers(attention, remat):
    settings = dataclasses.replace(SETTINGS, attention=attention, remat=remat)
    model = create_model(settings)
    pull = jax.eval_shape(lambda *given: pull_back(model, *given)[1], *inputs(model))
    stacked = [leaf for leaf in jax.tree.leaves(pull) if leaf.shape[:2] in ((5, BATCH), (7, BATCH))]
    residuals = sum(leaf.size * leaf.dtype.itemsize for leaf in stacked)
    counted = BATCH * (count_kept_bytes(settings, remat=remat) + count_offloaded_bytes(settings, remat=remat))
    if remat in ("none", "dots"):
        assert residuals <= counted < 1.5 * residuals
    else:
        assert residuals == counted


def test_a_policy_that_keeps_more_recomputes_less():
    settings = dataclasses.replace(SETTINGS, attention="cudnn")
    ordered = [name for name in POLICIES if name not in ("dots", "minimal_offloaded")]
    kept = [count_kept_bytes(settings, remat=name) for name in ordered]
    recomputed = [count_recomputed_flops(settings, remat=name) for name in ordered]
    assert kept == sorted(kept, reverse=True) and len({*kept}) == len(kept)
    assert recomputed == sorted(recomputed)


def test_b16_recomputes_less_than_an_eighth_of_a_step_without_its_mlp():
    tower = {"width": 768, "depth": 12, "heads": 12, "mlp_width": 3072}
    settings = ModelSettings(
        vision=VisionSettings(image_size=224, patch_size=16, **tower),
        text=TextSettings(vocab_size=32_000, length=64, **tower),
        dtype="bfloat16",
        attention="cudnn",
    )
    step = 3 * count_forward_flops(settings)
    assert 0.11 < count_recomputed_flops(settings, remat="save_dot_except_mlp") / step < 0.12
    assert count_kept_bytes(settings, remat="save_dot_except_mlp") == 5 * 12 * (196 + 64) * 768 * 2

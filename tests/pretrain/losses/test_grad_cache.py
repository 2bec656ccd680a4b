"""Gradient caching gives the gradient of the whole batch for any number of microbatches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.towers import Embeddings, create_model
from pretrain.distributed.sharding import create_mesh
from pretrain.losses.context_objective import Objective
from pretrain.losses.grad_cache import two_pass_gradients
from tests.pretrain.test_train_step import SETTINGS, batch


@pytest.mark.parametrize(
    ("base", "context", "microbatches", "equal_texts"),
    [  # each value with each value of every other setting
        ("sigmoid", True, 2, "negative"),
        ("softmax", False, 16, "negative"),
        ("softmax", True, 16, "positive"),
        ("sigmoid", False, 2, "positive"),
        ("sigmoid", True, 16, "ignored"),
        ("softmax", False, 2, "ignored"),
    ],
)
def test_microbatches_give_the_gradient_of_the_whole_batch(base, context, microbatches, equal_texts):
    objective = Objective(base=base, context=context, alpha=0.5, equal_texts=equal_texts)
    model, mesh = create_model(SETTINGS), create_mesh()
    parameters = {"model": model.init(0), "objective": objective.init(16)}
    tokens = jnp.asarray(batch(0, texts=6)["tokens"])  # equal ones are in different microbatches
    whole_batch = {"images": jnp.float32(batch(0)["images"]) / 127.5 - 1, "tokens": tokens}

    def embed(parameters, part) -> Embeddings:
        return model.embed(parameters, part["images"], part["tokens"])

    def loss(scalars, embeddings):
        return objective(scalars, *embeddings, tokens=tokens, mesh=mesh)

    def whole(parameters):
        return loss(parameters["objective"], embed(parameters["model"], whole_batch))

    expected, expected_metrics = jax.jit(jax.grad(whole, has_aux=True))(parameters)
    found, metrics = jax.jit(
        lambda parameters: two_pass_gradients(
            embed, loss, parameters, whole_batch, microbatches=microbatches, mesh=mesh
        )
    )(parameters)
    assert set(found["objective"]) == set(expected["objective"]) and ("context_temperature" in metrics) == context
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    length = np.sqrt(sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(expected)))
    for path, value in jax.tree_util.tree_leaves_with_path(
        expected
    ):  # the gradient of a key's bias is zero but for rounding
        other = functools.reduce(lambda tree, key: tree[key.key], path, found)
        error = np.linalg.norm(other - value) / max(np.linalg.norm(value), 1e-3 * length)
        assert error < 1e-4, (path, error)


@pytest.mark.slow
def test_microbatches_need_less_memory():
    model, objective, mesh = create_model(SETTINGS), Objective(), create_mesh()
    parameters = {"model": model.init(0), "objective": objective.init(16)}
    shapes = {
        "images": jax.ShapeDtypeStruct((256, 8, 8, 3), jnp.float32),
        "tokens": jax.ShapeDtypeStruct((256, 5), jnp.int32),
    }

    def memory(microbatches):
        def gradient(parameters, whole_batch):
            return two_pass_gradients(
                lambda parameters, part: model.embed(parameters, part["images"], part["tokens"]),
                lambda scalars, embeddings: objective(scalars, *embeddings, mesh=mesh),
                parameters,
                whole_batch,
                microbatches=microbatches,
                mesh=mesh,
            )[0]

        return jax.jit(gradient).lower(parameters, shapes).compile().memory_analysis().temp_size_in_bytes

    assert memory(16) < 0.5 * memory(1)

"""Gradients of a large batch with the memory of a microbatch: gradient caching (GradCache, arXiv 2101.06983).

A contrastive loss compares all pairs of a batch. Accumulating the gradients of microbatches would optimise another
loss, with fewer negatives. Gradient caching gives the gradient of the whole batch in two passes over the towers:

1. Embed every microbatch without gradients, and differentiate the loss of the whole batch by the embeddings.
2. Embed every microbatch again, and pull the gradient of its embeddings back to the parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = Any


class BatchGradients(NamedTuple):
    """The gradients of `{"model": ..., "objective": ...}` and the metrics of a whole batch."""

    gradients: dict[str, Tree]
    metrics: Tree


def two_pass_gradients(
    embed: Callable[[Tree, Tree], Tree],
    loss: Callable[[Tree, Tree], tuple[jax.Array, Tree]],
    parameters: dict[str, Tree],
    batch: Tree,
    *,
    microbatches: int,
    mesh: Mesh,
    constrain: Callable[[Tree], Tree] = lambda gradients: gradients,
) -> BatchGradients:
    """Return the gradients that one pass over the whole batch would give.

    `embed(model_parameters, batch)` returns embeddings in which each row depends on its row of the batch alone.
    `loss(objective_parameters, embeddings)` returns the loss and its metrics. `constrain` is applied to the model's
    gradients while they are summed, in float32.
    """
    split = functools.partial(_split, parts=microbatches, mesh=mesh)
    model, parts = parameters["model"], jax.tree.map(split, batch)

    # First pass: the embeddings of the whole batch, and the gradient of the loss by them.
    _, embeddings = lax.scan(lambda _, part: (None, embed(model, part)), None, parts)
    embeddings = jax.tree.map(functools.partial(_join, mesh=mesh), embeddings)
    differentiate = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, metrics), (d_objective, d_embeddings) = differentiate(parameters["objective"], embeddings)

    # Second pass: each microbatch adds its part of the gradient of the model's parameters.
    def add_gradients(total: Tree, microbatch: tuple[Tree, Tree]) -> tuple[Tree, None]:
        part, d_part = microbatch
        _, pull_back = jax.vjp(lambda parameters: embed(parameters, part), model)
        (d_model,) = pull_back(d_part)
        return constrain(jax.tree.map(jnp.add, total, d_model)), None

    d_parts = jax.tree.map(split, d_embeddings)
    zeros = constrain(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), model))
    d_model, _ = lax.scan(add_gradients, zeros, (parts, d_parts))
    return BatchGradients({"model": d_model, "objective": d_objective}, metrics)


def _split(array: jax.Array, *, parts: int, mesh: Mesh) -> jax.Array:
    """Split rows `[batch, ...]` into `[parts, batch / parts, ...]`; every device keeps the rows that it holds."""
    rest = array.shape[1:]
    array = array.reshape(mesh.size, parts, -1, *rest).swapaxes(0, 1)
    return _shard(array.reshape(parts, -1, *rest), mesh, PartitionSpec(None, mesh.axis_names))


def _join(array: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Undo `_split`."""
    parts, _, *rest = array.shape
    array = array.reshape(parts, mesh.size, -1, *rest).swapaxes(0, 1)
    return _shard(array.reshape(-1, *rest), mesh, PartitionSpec(mesh.axis_names))


def _shard(array: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    return lax.with_sharding_constraint(array, NamedSharding(mesh, spec))

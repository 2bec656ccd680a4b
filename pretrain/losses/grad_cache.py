"""The gradient of a whole batch with the towers' memory of a microbatch (GradCache, arXiv 2101.06983).

A contrastive loss looks at all pairs of the batch, so that adding up the gradients of parts would be another loss, with
fewer negatives. Here all embeddings are computed first, part by part and without gradient; then the loss and its
gradient by the embeddings, for the whole batch; then each part once more, with gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = Any


def embed_and_differentiate(
    embed: Callable[[Tree, Tree], Tree],
    loss: Callable[[Tree, Tree], tuple[jax.Array, Tree]],
    parameters: dict[str, Tree],
    batch: Tree,
    *,
    microbatches: int,
    mesh: Mesh,
    constrain: Callable[[Tree], Tree] = lambda gradients: gradients,
) -> tuple[dict[str, Tree], Tree]:
    """Returns the gradients of `{"model": ..., "objective": ...}` and the metrics of the whole batch.

    `embed(model_parameters, batch)` gives embeddings, each of whose rows depends on its row of the batch alone;
    `loss(objective_parameters, embeddings)` gives the loss and its metrics. `constrain` is applied to the model's
    gradients while they add up, in float32. The result is that of one pass over the whole batch.
    """
    parts = jax.tree.map(lambda array: _split(array, microbatches, mesh), batch)
    model = parameters["model"]

    _, embeddings = lax.scan(lambda _, part: (None, embed(model, part)), None, parts)
    embeddings = jax.tree.map(lambda array: _join(array, mesh), embeddings)
    differentiate = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, metrics), (d_objective, d_embeddings) = differentiate(parameters["objective"], embeddings)

    def add(gradients: Tree, part: Tree) -> tuple[Tree, None]:
        part, d_part = part
        _, pull_back = jax.vjp(lambda parameters: embed(parameters, part), model)
        (d_model,) = pull_back(d_part)
        return constrain(jax.tree.map(jnp.add, gradients, d_model)), None

    d_parts = jax.tree.map(lambda array: _split(array, microbatches, mesh), d_embeddings)
    zeros = constrain(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), model))
    d_model, _ = lax.scan(add, zeros, (parts, d_parts))
    return {"model": d_model, "objective": d_objective}, metrics


def _split(array: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """Cuts rows `[batch, ...]` into `[parts, batch / parts, ...]`, of which each device keeps what it has."""
    rest = array.shape[1:]
    array = array.reshape(mesh.size, parts, -1, *rest).swapaxes(0, 1)
    return _spread(array.reshape(parts, -1, *rest), mesh, PartitionSpec(None, mesh.axis_names))


def _join(array: jax.Array, mesh: Mesh) -> jax.Array:
    """Undoes `_split`."""
    parts, _, *rest = array.shape
    array = array.reshape(parts, mesh.size, -1, *rest).swapaxes(0, 1)
    return _spread(array.reshape(-1, *rest), mesh, PartitionSpec(mesh.axis_names))


def _spread(array: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    return lax.with_sharding_constraint(array, NamedSharding(mesh, spec))

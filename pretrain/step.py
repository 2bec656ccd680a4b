"""One training step: a pure function of the state and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from models.preprocessing import Preprocessing
from models.towers import Model
from pretrain.objective import Objective
from pretrain.sharding import FSDP_RULES, Rules, batch_sharding, tree_shardings

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that training changes. `parameters` holds `model` (the towers) and `objective` (scales, temperature)."""

    step: jax.Array
    parameters: dict[str, Any]
    optimizer_state: Any


class Training(NamedTuple):
    """What a run computes with: `init() → state` and `step(state, batch) → (state, metrics)`, compiled for a mesh.

    `abstract_state` describes the state (shapes, dtypes, shardings) without making it. A batch has `images`
    `[batch, size, size, 3]` uint8, `tokens` `[batch, length]` int32 and, where patches are dropped, `kept_patches`
    `[batch, kept]` int32. `step` takes its state's memory over.
    """

    init: Callable[[], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    abstract_state: TrainState


def create_training(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    dim: int,
    preprocessing: Preprocessing,
    mesh: Mesh,
    seed: int,
    rules: Rules = FSDP_RULES,
) -> Training:
    """Compiles a run's step for `mesh`; arrays are born where the rules put them. `dim` is the width of embeddings."""

    def init() -> TrainState:
        parameters = {"model": model.init(seed), "objective": objective.init(dim)}
        return TrainState(jnp.zeros((), jnp.int32), parameters, optimizer.init(parameters))

    def loss(parameters: dict[str, Any], batch: Batch) -> tuple[jax.Array, Metrics]:
        images = preprocessing.normalize(batch["images"])
        embeddings = model.embed(parameters["model"], images, batch["tokens"], batch.get("kept_patches"))
        return objective(parameters["objective"], embeddings.image_embeddings, embeddings.text_embeddings)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        gradients, metrics = jax.grad(loss, has_aux=True)(state.parameters, batch)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        metrics = metrics | {"gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, parameters, optimizer_state), metrics

    shapes = jax.eval_shape(init)
    shardings = tree_shardings(shapes, mesh, rules)
    abstract_state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )
    return Training(
        init=jax.jit(init, out_shardings=shardings),
        step=jax.jit(
            step,
            in_shardings=(shardings, batch_sharding(mesh)),
            out_shardings=(shardings, None),
            donate_argnums=0,
        ),
        abstract_state=abstract_state,
    )

"""One training step: a pure function of the state and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data.pipeline.augmentation import count_kept_patches
from models.config import ModelSettings
from models.preprocessing import Preprocessing
from models.towers import Embeddings, Model, create_model
from pretrain.config.run import PretrainSettings
from pretrain.distributed.sharding import Rules, batch_sharding, parameter_shardings, state_shardings
from pretrain.losses.context_objective import Objective
from pretrain.losses.grad_cache import embed_and_differentiate
from pretrain.optim.optimizer import OptimizerSettings, create_optimizer, frozen_parameters

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that training changes. `parameters` holds `model` (the towers) and `objective` (scales, temperature)."""

    step: jax.Array
    parameters: dict[str, Any]
    optimizer_state: Any


class Training(NamedTuple):
    """What a run computes with: `init() → state` and `step(state, batch) → (state, metrics)`, compiled for a mesh.

    `start(towers) → state` begins with the towers' parameters, placed as the state's are, which it takes over.
    `abstract_state` describes the state (shapes, dtypes, shardings) without making it. A batch has `images`
    `[batch, size, size, 3]` uint8, `tokens` `[batch, length]` int32 and, where patches are dropped, `kept_patches`
    `[batch, kept]` int32. `step` takes its state's memory over.
    """

    init: Callable[[], TrainState]
    start: Callable[[Any], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    abstract_state: TrainState


def training_of(
    settings: PretrainSettings, mesh: Mesh, *, model: ModelSettings, num_samples: int | None = None
) -> Training:
    """Compiles the step that `settings` describe for `mesh`, for the towers of `model`.

    `num_samples` of the data are needed only for a run whose length is in epochs, and not to check or measure it.
    """
    settings.check_mesh(mesh)
    return create_training(
        create_model(model, mesh=mesh),
        settings.objective,
        settings.optimizer,
        steps=settings.num_steps(num_samples),
        dim=model.dim,
        preprocessing=settings.entering(),
        mesh=mesh,
        seed=settings.seed,
        microbatches=settings.microbatches,
        rules=settings.mesh.rules,
    )


def abstract_batch(settings: PretrainSettings, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a global batch on `mesh`."""
    batch = settings.batch_size
    shapes = {
        "images": ((batch, *settings.vision.image_shape, 3), jnp.uint8),
        "tokens": ((batch, settings.text["length"]), jnp.int32),
    }
    if settings.augmentation.keep_patches < 1:
        kept = count_kept_patches(settings.vision.num_patches, settings.augmentation.keep_patches)
        shapes["kept_patches"] = ((batch, kept), jnp.int32)
    placed = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(*shape, sharding=placed) for name, shape in shapes.items()}


def create_training(
    model: Model,
    objective: Objective,
    optimizer: OptimizerSettings,
    *,
    steps: int,
    dim: int,
    preprocessing: Preprocessing,
    mesh: Mesh,
    seed: int,
    microbatches: int = 1,
    rules: Rules = (),
) -> Training:
    """Compiles the step of a run of `steps` for `mesh`; arrays are born where the rules put them.

    `dim` is the width of embeddings. With more than one of `microbatches` the towers work on that many parts of the
    batch in turn, for the same gradient. Raises `ValueError` for a rule that matches no parameter.
    """

    def create_parameters() -> dict[str, Any]:
        return {"model": model.init(seed), "objective": objective.init(dim)}

    shapes = jax.eval_shape(create_parameters)
    frozen = frozen_parameters(optimizer, shapes)
    transformation = create_optimizer(optimizer, steps, shapes)
    shardings = parameter_shardings(shapes, mesh, rules)

    def begin(parameters: dict[str, Any]) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), parameters, transformation.init(parameters))

    def init() -> TrainState:
        return begin(create_parameters())

    def start(towers: Any) -> TrainState:
        return begin({"model": towers, "objective": objective.init(dim)})

    def embed(parameters: dict[str, Any], batch: Batch) -> Embeddings:
        parameters = _stop_gradients(parameters, frozen["model"])
        images = preprocessing.normalize(batch["images"])
        return model.embed(parameters, images, batch["tokens"], batch.get("kept_patches"))

    def loss(scalars: dict[str, jax.Array], embeddings: Embeddings) -> tuple[jax.Array, Metrics]:
        return objective(_stop_gradients(scalars, frozen["objective"]), *embeddings, mesh=mesh)

    def whole(parameters: dict[str, Any], batch: Batch) -> tuple[jax.Array, Metrics]:
        return loss(parameters["objective"], embed(parameters["model"], batch))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if microbatches == 1:
            gradients, metrics = jax.grad(whole, has_aux=True)(state.parameters, batch)
        else:
            gradients, metrics = embed_and_differentiate(
                embed,
                loss,
                state.parameters,
                batch,
                microbatches=microbatches,
                mesh=mesh,
                constrain=lambda tree: jax.lax.with_sharding_constraint(tree, shardings["model"]),
            )
        updates, optimizer_state = transformation.update(gradients, state.optimizer_state, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        metrics = metrics | {"gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, parameters, optimizer_state), metrics

    state = jax.eval_shape(init)
    copied = NamedSharding(mesh, PartitionSpec())
    placed = TrainState(copied, shardings, state_shardings(state.optimizer_state, shapes, shardings, mesh))
    abstract_state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state, placed
    )
    return Training(
        init=jax.jit(init, out_shardings=placed),
        start=jax.jit(start, in_shardings=(shardings["model"],), out_shardings=placed, donate_argnums=0),
        step=jax.jit(step, in_shardings=(placed, batch_sharding(mesh)), out_shardings=(placed, None), donate_argnums=0),
        abstract_state=abstract_state,
    )


def _stop_gradients(parameters: Any, frozen: Any) -> Any:
    return jax.tree.map(lambda leaf, fixed: jax.lax.stop_gradient(leaf) if fixed else leaf, parameters, frozen)

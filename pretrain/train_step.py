"""One training step as a pure function of the state and a batch: embed, loss, gradients, optimizer update."""

from __future__ import annotations

import dataclasses
import functools
import logging
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
from pretrain.config.training import RunSettings
from pretrain.distributed.sharding import Rules, batch_sharding, parameter_shardings, state_shardings
from pretrain.losses.context_objective import Loss, Objective
from pretrain.losses.grad_cache import BatchGradients, two_pass_gradients
from pretrain.optim.optimizer import OptimizerSettings, create_optimizer, frozen_parameters
from pretrain.remat_choice import choose_remat, memory_limit

logger = logging.getLogger(__name__)

IMAGE_FEATURES, TEXT_FEATURES = "image_features", "text_features"  # of a batch, for heads
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything that training changes.

    `parameters` holds `model` (the towers) and `objective` (logit scales and biases, context temperature).
    """

    step: jax.Array
    parameters: dict[str, Any]
    optimizer_state: Any


class StepResult(NamedTuple):
    """The state after a step, and the step's metrics."""

    state: TrainState
    metrics: Metrics


class TrainStep(NamedTuple):
    """The jitted functions of a run on a mesh.

    `init()` returns the initial state. `init_from(towers)` returns an initial state with the given tower parameters,
    which must be sharded like those of the state and are donated. `step(state, batch)` returns a `StepResult` and
    donates `state`. `abstract_state` describes the state (shapes, dtypes, shardings) without allocating it. `remat` is
    the rematerialization policy of the towers, the chosen one for "auto".

    A batch has `images` `[batch, height, width, 3]` uint8, `tokens` `[batch, length]` int32 and, when patches are
    dropped, `kept_patches` `[batch, kept]` int32. For a head in the place of a tower it has `image_features` or
    `text_features` `[batch, input_dim]` float32 instead.
    """

    init: Callable[[], TrainState]
    init_from: Callable[[Any], TrainState]
    step: Callable[[TrainState, Batch], StepResult]
    abstract_state: TrainState
    remat: str


def build_train_step(
    settings: RunSettings,
    mesh: Mesh,
    *,
    model: ModelSettings,
    num_samples: int | None = None,
    memory: int | None = None,
) -> TrainStep:
    """Return the training step that `settings` describe, for `model` on `mesh`.

    `num_samples` is the size of the training data. It is needed only to train a run whose length is given in epochs,
    not to check or to measure one. `memory` is what a program can use of a device in bytes, for `remat="auto"`; by
    default that of the attached devices. Raises `ValueError` for a batch size, rule or schedule that does not fit.
    """
    settings.check_mesh(mesh)
    settings.check_schedules(num_samples)

    def create(model: ModelSettings) -> TrainStep:
        return create_train_step(
            create_model(model, mesh=mesh),
            settings.objective,
            settings.optimizer,
            steps=settings.num_steps(num_samples),
            dim=model.dim,
            preprocessing=settings.image_preprocessing(),
            mesh=mesh,
            seed=settings.seed,
            microbatches=settings.microbatches,
            rules=settings.mesh.rules,
        )

    if model.remat != "auto":
        return create(model)
    choice = choose_remat(
        settings,
        create_model(model, mesh=mesh).settings,
        mesh,
        state=create(dataclasses.replace(model, remat="none")).abstract_state,
        memory=memory_limit(mesh) if memory is None else memory,
    )
    logger.info(choice.reason)
    return create(dataclasses.replace(model, remat=choice.remat))


@functools.lru_cache(maxsize=4)  # equal runs in one process share the compiled step
def create_train_step(
    model: Model,
    objective: Objective,
    optimizer: OptimizerSettings,
    *,
    steps: int,
    dim: int,
    preprocessing: Preprocessing | None,
    mesh: Mesh,
    seed: int,
    microbatches: int = 1,
    rules: Rules = (),
) -> TrainStep:
    """Return the training step of a run of `steps` steps; arrays are created where the sharding rules place them.

    `dim` is the embedding width; a model without image tower needs no `preprocessing`. With `microbatches` above 1 the
    towers process the batch in that many parts, which gives the same gradient with less memory. Raises `ValueError` for
    a rule that matches no parameter.
    """
    initialize = functools.partial(init_parameters, model, objective, dim=dim, seed=seed)
    shapes = jax.eval_shape(initialize)
    frozen = frozen_parameters(optimizer, shapes)
    transformation = create_optimizer(optimizer, steps, shapes)
    shardings = parameter_shardings(shapes, mesh, rules)
    parts = StepParts(
        model=model,
        objective=objective,
        optimizer=transformation,
        preprocessing=preprocessing,
        mesh=mesh,
        frozen=frozen,
        shardings=shardings,
        microbatches=microbatches,
    )

    init = functools.partial(_init_state, initialize, transformation)
    init_from = functools.partial(_init_state_from, objective, transformation, dim=dim)
    state = jax.eval_shape(init)
    replicated = NamedSharding(mesh, PartitionSpec())
    optimizer_shardings = state_shardings(state.optimizer_state, parameters=shapes, shardings=shardings, mesh=mesh)
    placed = TrainState(replicated, shardings, optimizer_shardings)
    return TrainStep(
        init=jax.jit(init, out_shardings=placed),
        init_from=jax.jit(init_from, in_shardings=(shardings["model"],), out_shardings=placed, donate_argnums=0),
        step=jax.jit(
            functools.partial(train_step, parts),
            in_shardings=(placed, batch_sharding(mesh)),
            out_shardings=StepResult(placed, None),
            donate_argnums=0,
        ),
        abstract_state=jax.tree.map(_abstract, state, placed),
        remat=model.settings.remat,
    )


def abstract_batch(settings: PretrainSettings, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a global batch on `mesh`."""
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


# Initial state


def init_parameters(model: Model, objective: Objective, *, dim: int, seed: int) -> dict[str, Any]:
    """Return the initial parameters of the towers and of the objective."""
    return {"model": model.init(seed), "objective": objective.init(dim)}


def _init_state(initialize: Callable[[], dict[str, Any]], transformation: optax.GradientTransformation) -> TrainState:
    parameters = initialize()
    return TrainState(jnp.zeros((), jnp.int32), parameters, transformation.init(parameters))


def _init_state_from(
    objective: Objective, transformation: optax.GradientTransformation, towers: Any, *, dim: int
) -> TrainState:
    parameters = {"model": towers, "objective": objective.init(dim)}
    return TrainState(jnp.zeros((), jnp.int32), parameters, transformation.init(parameters))


def _abstract(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


# One step, phase by phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepParts:
    """Everything that a step computes with, apart from its state and batch.

    `frozen` is a tree like the parameters, True for those that are not trained; `shardings` has one sharding per
    parameter.
    """

    model: Model
    objective: Objective
    optimizer: optax.GradientTransformation
    preprocessing: Preprocessing | None
    mesh: Mesh
    frozen: Any
    shardings: Any
    microbatches: int = 1


def train_step(parts: StepParts, state: TrainState, batch: Batch) -> StepResult:
    """Take one optimizer step on a batch."""
    gradients, metrics = compute_gradients(parts, state.parameters, batch, step=state.step)
    updates, optimizer_state = parts.optimizer.update(gradients, state.optimizer_state, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    scalars = update_scalars(parts, parameters["objective"], before=state.parameters["objective"], step=state.step)
    parameters = parameters | {"objective": scalars}
    metrics = metrics | {"gradient_norm": optax.tree.norm(gradients)}
    return StepResult(TrainState(state.step + 1, parameters, optimizer_state), metrics)


def compute_gradients(parts: StepParts, parameters: dict[str, Any], batch: Batch, *, step: jax.Array) -> BatchGradients:
    """Return the gradients of the loss of the whole batch, in one pass or microbatch by microbatch."""
    if parts.microbatches == 1:
        loss = functools.partial(batch_loss, parts, batch=batch, step=step)
        gradients, metrics = jax.grad(loss, has_aux=True)(parameters)
        return BatchGradients(gradients, metrics)
    return two_pass_gradients(
        functools.partial(embed, parts),
        functools.partial(embedding_loss, parts, tokens=text_identities(batch), step=step),
        parameters,
        batch,
        microbatches=parts.microbatches,
        mesh=parts.mesh,
        constrain=functools.partial(_constrain, shardings=parts.shardings["model"]),
    )


def batch_loss(parts: StepParts, parameters: dict[str, Any], *, batch: Batch, step: jax.Array) -> Loss:
    """Return the loss of a batch, after `step` steps, and its metrics."""
    embeddings = embed(parts, parameters["model"], batch)
    return embedding_loss(parts, parameters["objective"], embeddings, tokens=text_identities(batch), step=step)


def text_identities(batch: Batch) -> jax.Array:
    """Return integers `[batch, columns]` whose rows are equal where texts are: tokens, or numbers of text features."""
    return batch["tokens"] if "tokens" in batch else batch["text_ids"]


def embed(parts: StepParts, parameters: dict[str, Any], batch: Batch) -> Embeddings:
    """Return the image and text embeddings of a batch; no gradient flows into frozen parameters."""
    parameters = _stop_gradients(parameters, parts.frozen["model"])
    features = batch.get(IMAGE_FEATURES)
    images = parts.preprocessing.normalize(batch["images"]) if features is None else features
    texts = batch["tokens"] if TEXT_FEATURES not in batch else batch[TEXT_FEATURES]
    return parts.model.embed(parameters, images, texts, batch.get("kept_patches"))


@jax.named_scope("objective")
def embedding_loss(
    parts: StepParts, scalars: dict[str, jax.Array], embeddings: Embeddings, *, tokens: jax.Array, step: jax.Array
) -> Loss:
    """Return the objective of a batch of embeddings, after `step` steps, and its metrics.

    `tokens` are those of its texts.
    """
    scalars = _stop_gradients(scalars, parts.frozen["objective"])
    return parts.objective(scalars, *embeddings, tokens=tokens, mesh=parts.mesh, step=step)


def update_scalars(
    parts: StepParts, scalars: dict[str, jax.Array], *, before: dict[str, jax.Array], step: jax.Array
) -> dict[str, jax.Array]:
    """Return the objective's scalars after an optimizer update, as `Objective.update` does.

    Those that are not trained are unchanged.
    """
    updated = parts.objective.update(scalars, before=before, step=step)
    return {name: scalars[name] if parts.frozen["objective"][name] else updated[name] for name in scalars}


def _constrain(tree: Any, *, shardings: Any) -> Any:
    return jax.lax.with_sharding_constraint(tree, shardings)


def _stop_gradients(parameters: Any, frozen: Any) -> Any:
    return jax.tree.map(lambda leaf, fixed: jax.lax.stop_gradient(leaf) if fixed else leaf, parameters, frozen)

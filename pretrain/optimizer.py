"""The optimizer and its schedule, from optax."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW with linear warm-up, cosine decay to zero, and clipping of the global gradient norm.

    `scalar_learning_rate` multiplies the learning rate of the objective's scalars (scales, biases, temperature).
    Weight decay acts on matrices only, never on norms, biases or scalars.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 0
    weight_decay: float = 1e-4
    b1: float = 0.9
    b2: float = 0.95
    clip_norm: float = 1.0
    scalar_learning_rate: float = 1.0


def create_schedule(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Returns step → learning rate over a run of `steps`."""
    if not 0 <= settings.warmup_steps <= steps:
        raise ValueError(f"optimizer.warmup_steps {settings.warmup_steps} does not fit a run of {steps} steps")
    return optax.warmup_cosine_decay_schedule(
        0.0 if settings.warmup_steps else settings.learning_rate,
        settings.learning_rate,
        settings.warmup_steps,
        max(steps, settings.warmup_steps + 1),
    )


def create_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """Returns the optimizer of `{"model": ..., "objective": ...}` parameter trees for a run of `steps`."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.scale_by_adam(settings.b1, settings.b2),
        optax.add_decayed_weights(settings.weight_decay, mask=_is_matrix),
        _scale_objective(settings.scalar_learning_rate),
        optax.scale_by_learning_rate(create_schedule(settings, steps)),
    )


def _is_matrix(parameters: Any) -> Any:
    """Marks matrices and embedding tables, which stacked layers carry with one more axis."""

    def mark(path: tuple, leaf: jax.Array) -> bool:
        layered = any(getattr(key, "key", None) == "layers" for key in path)
        return leaf.ndim - layered >= 2

    return jax.tree_util.tree_map_with_path(mark, parameters)


def _scale_objective(factor: float) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: {**updates, "objective": jax.tree.map(lambda u: factor * u, updates["objective"])}
    )

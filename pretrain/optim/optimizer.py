"""The optimizer and the learning rate schedule, from optax."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from foundation.settings import NonNegativeFloat, PositiveInt, UnitFloat, check
from foundation.suggestions import unknown_name
from pretrain.optim.param_rules import check_patterns, first_match, path_name

FactorRule = Annotated[tuple[str, NonNegativeFloat], Field(description="a pair of a pattern and a factor, 0 or more")]
ClipNorm = Annotated[float, Field(gt=0, description="a number above 0, inf for no clipping")]
DecayRate = Annotated[float, Field(ge=0, lt=1, description="a number from 0 to below 1")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Settings of the optimizer.

    name: "adamw" stores two float32 numbers per parameter, "lion" one, and "adafactor" one bfloat16 number, with one
        float32 number per row and per column of each matrix.
    schedule: after a linear warm-up, "cosine" decays to zero; "rsqrt" decays with the square root of the steps, by half
        in three times `timescale`, and linearly to zero in the last `cooldown_steps`.
    learning_rate: peak of the learning rate.
    warmup_steps: steps in which the learning rate rises linearly from 0.
    cooldown_steps: steps at the end in which it falls linearly to 0, for "rsqrt".
    timescale: a third of the steps after which "rsqrt" has decayed by half.
    weight_decay: decoupled weight decay of matrices, times the learning rate.
    b1, b2: decay rates of the first and of the second moment.
    clip_norm: global norm above which gradients are scaled down (inf: never).
    scalar_learning_rate: factor for the learning rate of the objective's scalars.
    context_temperature_learning_rate: a further factor for that of the context temperature.
    layer_decay: factor for the learning rate of a layer, once per layer above it. In a tower of n layers, the last one
        learns at `layer_decay`, the first one at its n-th power, and embeddings at the power n + 1 (BEiT, arXiv
        2106.08254, appendix). Heads, final norms and scalars learn at the full rate.

    A rule is a pair of a regular expression and a factor. The first pattern that is found in the path of a parameter,
    such as `model/vision/encoder/layers/mlp/up/kernel`, applies.
    learning_rate_rules: factors for the learning rate (no match: 1).
    weight_decay_rules: factors for the weight decay (no match: 1 for matrices; 0 for norms, biases and scalars).
    frozen: patterns of parameters that are not trained and have no gradient or optimizer state: `("model/vision/",)`
        trains with a locked image tower.
    """

    name: str = "adamw"
    schedule: str = "cosine"
    learning_rate: NonNegativeFloat = 1e-3
    warmup_steps: int = 0
    cooldown_steps: int = 0
    timescale: PositiveInt = 10_000
    weight_decay: NonNegativeFloat = 1e-4
    b1: DecayRate = 0.9
    b2: DecayRate = 0.95
    clip_norm: ClipNorm = 1.0
    scalar_learning_rate: NonNegativeFloat = 1.0
    context_temperature_learning_rate: NonNegativeFloat = 1.0
    layer_decay: UnitFloat = 1.0
    learning_rate_rules: tuple[FactorRule, ...] = ()
    weight_decay_rules: tuple[FactorRule, ...] = ()
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self, "optimizer")
        if self.name not in OPTIMIZERS:
            raise ValueError(unknown_name("optimizer.name", self.name, OPTIMIZERS))
        if self.schedule not in SCHEDULES:
            raise ValueError(unknown_name("optimizer.schedule", self.schedule, SCHEDULES))


def _cosine(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(settings.learning_rate, max(steps - settings.warmup_steps, 1))


def _rsqrt(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Return the reciprocal square root schedule (Scaling Vision Transformers, arXiv 2106.04560, section 3.5)."""

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        left = (steps - settings.warmup_steps - step) / max(settings.cooldown_steps, 1)
        cooling = jnp.clip(left, 0.0, 1.0) if settings.cooldown_steps else 1.0
        return settings.learning_rate * cooling * jnp.sqrt(settings.timescale / (settings.timescale + step))

    return schedule


def _adafactor(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Return Adafactor with factored second moments and a bfloat16 momentum (arXiv 2106.04560)."""
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=32),
        optax.clip_by_block_rms(1.0),
        optax.ema(settings.b1, debias=False, accumulator_dtype=jnp.bfloat16),
    )


SCHEDULES = {"cosine": _cosine, "rsqrt": _rsqrt}
OPTIMIZERS = {
    "adamw": lambda settings: optax.scale_by_adam(settings.b1, settings.b2),
    "lion": lambda settings: optax.scale_by_lion(settings.b1, settings.b2),
    "adafactor": _adafactor,
}


def create_schedule(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Return step → learning rate for a run of `steps` steps.

    Raises `ValueError` if warm-up and cool-down are longer than the run.
    """
    for name in ("warmup_steps", "cooldown_steps"):
        if not 0 <= getattr(settings, name) <= steps:
            raise ValueError(f"optimizer.{name} {getattr(settings, name)} is not between 0 and the run's {steps} steps")
    if settings.schedule == "rsqrt" and settings.warmup_steps + settings.cooldown_steps > steps:
        raise ValueError(
            f"optimizer.warmup_steps {settings.warmup_steps} and cooldown_steps {settings.cooldown_steps} together are "
            f"more than the run's {steps} steps"
        )
    decay = SCHEDULES[settings.schedule](settings, steps)
    if not settings.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, settings.learning_rate, settings.warmup_steps)
    return optax.join_schedules([warmup, decay], [settings.warmup_steps])


def create_optimizer(settings: OptimizerSettings, steps: int, parameters: Any) -> optax.GradientTransformation:
    """Return the optimizer for trees `{"model": ..., "objective": ...}` like `parameters` (shapes suffice).

    Raises `ValueError` for a rule that matches no parameter.
    """
    for field in ("learning_rate_rules", "weight_decay_rules"):
        check_patterns(f"optimizer.{field}", [pattern for pattern, _ in getattr(settings, field)], parameters)
    frozen = frozen_parameters(settings, parameters)
    rates = _learning_rate_factors(settings, parameters)
    decays = _weight_decay_factors(settings, parameters)
    trained = optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        OPTIMIZERS[settings.name](settings),
        optax.stateless(
            lambda updates, p: _map_updates(lambda d, u, w: u + settings.weight_decay * d * w, decays, updates, p)
        ),
        optax.stateless(lambda updates, _: _map_updates(lambda rate, u: rate * u, rates, updates)),
        optax.scale_by_learning_rate(create_schedule(settings, steps)),
    )
    if not any(jax.tree.leaves(frozen)):
        return trained
    labels = jax.tree.map(lambda leaf: "frozen" if leaf else "trained", frozen)
    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def frozen_parameters(settings: OptimizerSettings, parameters: Any) -> Any:
    """Return a tree like `parameters`, True for those that are not trained."""
    check_patterns("optimizer.frozen", settings.frozen, parameters)
    rules = [(pattern, True) for pattern in settings.frozen]
    return _by_path(lambda name, _: first_match(rules, name, False), parameters)


def _learning_rate_factors(settings: OptimizerSettings, parameters: Any) -> Any:
    scalars = settings.scalar_learning_rate
    rules = (
        *settings.learning_rate_rules,
        (r"^objective/context_temperature$", scalars * settings.context_temperature_learning_rate),
        (r"^objective/", scalars),
    )
    decays = _layer_decays(settings.layer_decay, parameters)
    return _by_path(lambda name, _: first_match(rules, name, 1.0) * decays(name), parameters)


def _layer_decays(decay: float, parameters: Any) -> Callable[[str], float | np.ndarray]:
    """Return path → factor; the layers of a stack have one factor each, along its first dimension."""
    if decay == 1:
        return lambda name: 1.0
    layered = r"^(model/\w+)/encoder/layers/"
    ranks: dict[str, int] = {}
    depths: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        name = path_name(path)
        if found := re.match(layered, name):
            depths[found[1]], ranks[name] = leaf.shape[0], leaf.ndim

    def factor(name: str) -> float | np.ndarray:
        if name in ranks:
            depth = depths[re.match(layered, name)[1]]
            return (decay ** np.arange(depth, 0, -1.0, np.float32)).reshape(-1, *(1,) * (ranks[name] - 1))
        found = re.match(r"^(model/\w+)/(\w+_embedding|pre_norm)(/|$)", name)
        return decay ** (depths[found[1]] + 1) if found else 1.0

    return factor


def _weight_decay_factors(settings: OptimizerSettings, parameters: Any) -> Any:
    """Return the factors of weight decay; by default 1 for matrices and embedding tables, also in stacks of layers."""

    def factor(name: str, leaf: Any) -> float:
        return first_match(settings.weight_decay_rules, name, float(leaf.ndim - ("/layers/" in name) >= 2))

    return _by_path(factor, parameters)


def _by_path(choose: Any, parameters: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: choose(path_name(path), leaf), parameters)


def _map_updates(function: Any, factors: Any, updates: Any, *rest: Any) -> Any:
    """Map over the updates; those of frozen parameters stay masked."""
    masked = lambda leaf: isinstance(leaf, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(
        lambda update, factor, *more: update if masked(update) else function(factor, update, *more),
        updates,
        factors,
        *rest,
        is_leaf=masked,
    )

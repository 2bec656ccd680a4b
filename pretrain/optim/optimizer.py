"""The optimizer and its schedule, from optax."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pretrain.optim.param_rules import check_patterns, first_match, path_name

Factors = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Which optimizer, and what it does to which parameter.

    `name`: "adamw" keeps two float32 numbers for each parameter, "lion" one, "adafactor" one bfloat16 and a row and a
    column for each matrix. `schedule`, after a linear warm-up: "cosine" falls to zero; "rsqrt" falls with the square
    root of the steps, by half in three times `timescale`, and linearly to zero in the last `cooldown_steps`.

    Rules are pairs of a regular expression and a factor; the first that is found in a parameter's path, for example
    `model/vision/encoder/layers/mlp/up/kernel`, decides. `learning_rate_rules` multiply the learning rate (unmatched:
    1). `weight_decay_rules` multiply the weight decay (unmatched: 1 for matrices, 0 for norms, biases and scalars).
    What a pattern of `frozen` matches stays as it is, without gradient or optimizer state: `("model/vision/",)` trains
    with a locked image tower. `layer_decay` multiplies the learning rate once for every layer that lies above, so that
    of a tower of n layers the last learns at `layer_decay`, the first at its n-th power, and what is embedded before it
    at the power n + 1 (BEiT, arXiv 2106.08254, appendix); heads, final norms and scalars learn at the full rate.
    `scalar_learning_rate` multiplies the learning rate of the objective's scalars, and
    `context_temperature_learning_rate` once more that of the context temperature.
    """

    name: str = "adamw"
    schedule: str = "cosine"
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    cooldown_steps: int = 0
    timescale: int = 10_000
    weight_decay: float = 1e-4
    b1: float = 0.9
    b2: float = 0.95
    clip_norm: float = 1.0
    scalar_learning_rate: float = 1.0
    context_temperature_learning_rate: float = 1.0
    layer_decay: float = 1.0
    learning_rate_rules: Factors = ()
    weight_decay_rules: Factors = ()
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, known in (("name", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, field) not in known:
                raise ValueError(f"unknown optimizer.{field} {getattr(self, field)!r}; known: {', '.join(known)}")
        for field in ("learning_rate_rules", "weight_decay_rules"):
            for rule in getattr(self, field):
                pair = isinstance(rule, tuple) and len(rule) == 2
                if not pair or not isinstance(rule[0], str) or not isinstance(rule[1], int | float):
                    raise ValueError(f"optimizer.{field} has {rule!r}, which is not a pair of a pattern and a factor")
        if isinstance(self.frozen, str):
            raise ValueError(f"optimizer.frozen {self.frozen!r} is not a list of patterns; write it as one")
        for pattern in self.frozen:
            if not isinstance(pattern, str):
                raise ValueError(f"optimizer.frozen has {pattern!r}, which is not a pattern")
        if not 0 <= self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay {self.layer_decay} is not within [0, 1]")
        if self.timescale < 1:
            raise ValueError(f"optimizer.timescale {self.timescale} is not a positive number of steps")


def _cosine(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(settings.learning_rate, max(steps - settings.warmup_steps, 1))


def _rsqrt(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Scaling Vision Transformers, arXiv 2106.04560, section 3.5."""

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        left = (steps - settings.warmup_steps - step) / max(settings.cooldown_steps, 1)
        cooling = jnp.clip(left, 0.0, 1.0) if settings.cooldown_steps else 1.0
        return settings.learning_rate * cooling * jnp.sqrt(settings.timescale / (settings.timescale + step))

    return schedule


def _adafactor(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Factored second moments and a bfloat16 momentum, as in Scaling Vision Transformers, arXiv 2106.04560."""
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
    """Returns step → learning rate over a run of `steps`."""
    for name in ("warmup_steps", "cooldown_steps"):
        if not 0 <= getattr(settings, name) <= steps:
            raise ValueError(f"optimizer.{name} {getattr(settings, name)} does not fit a run of {steps} steps")
    if settings.schedule == "rsqrt" and settings.warmup_steps + settings.cooldown_steps > steps:
        raise ValueError(
            f"optimizer.warmup_steps {settings.warmup_steps} and cooldown_steps {settings.cooldown_steps} together "
            f"do not fit a run of {steps} steps"
        )
    decay = SCHEDULES[settings.schedule](settings, steps)
    if not settings.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, settings.learning_rate, settings.warmup_steps)
    return optax.join_schedules([warmup, decay], [settings.warmup_steps])


def create_optimizer(settings: OptimizerSettings, steps: int, parameters: Any) -> optax.GradientTransformation:
    """Returns the optimizer of `{"model": ..., "objective": ...}` trees like `parameters`, whose shapes are enough.

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
        optax.stateless(lambda updates, p: _zip(lambda d, u, w: u + settings.weight_decay * d * w, decays, updates, p)),
        optax.stateless(lambda updates, _: _zip(lambda rate, u: rate * u, rates, updates)),
        optax.scale_by_learning_rate(create_schedule(settings, steps)),
    )
    if not any(jax.tree.leaves(frozen)):
        return trained
    labels = jax.tree.map(lambda leaf: "frozen" if leaf else "trained", frozen)
    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def frozen_parameters(settings: OptimizerSettings, parameters: Any) -> Any:
    """Returns a tree like `parameters` that says which of them stay as they are."""
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
    """Returns path → factor; stacked layers have one factor each, along their first axis."""
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
    """Matrices and embedding tables decay; stacked layers carry them with one more axis."""

    def factor(name: str, leaf: Any) -> float:
        return first_match(settings.weight_decay_rules, name, float(leaf.ndim - ("/layers/" in name) >= 2))

    return _by_path(factor, parameters)


def _by_path(choose: Any, parameters: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: choose(path_name(path), leaf), parameters)


def _zip(function: Any, factors: Any, updates: Any, *rest: Any) -> Any:
    """Maps over the updates; where some are frozen, theirs are masked out."""
    masked = lambda leaf: isinstance(leaf, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(
        lambda update, factor, *more: update if masked(update) else function(factor, update, *more),
        updates,
        factors,
        *rest,
        is_leaf=masked,
    )

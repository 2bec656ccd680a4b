"""Settings that every training run has, whatever it trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from jax.sharding import Mesh
from pydantic import Field

from foundation.settings import NonNegativeInt, PositiveFloat, PositiveInt, Seed, build
from models.config import AttentionKernel, Dtype, Remat
from models.preprocessing import Preprocessing
from pretrain.config.monitor import MonitorSettings
from pretrain.distributed.sharding import check_batch_size
from pretrain.loss_rollback import RecoverySettings
from pretrain.losses.context_objective import Objective
from pretrain.optim.optimizer import OptimizerSettings, create_schedule

_RULE = 'a pair of a pattern and a tuple of axes or Nones, such as ("token_embedding$", (None, "fsdp"))'
ShardingRule = Annotated[tuple[str, tuple[str | None, ...]], Field(description=_RULE)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Settings of the device mesh.

    fsdp: number of devices over which parameters are sharded; they are replicated over the rest.
    rules: a regular expression for the path of a parameter and the mesh axis of each of its dimensions, for example
        `("token_embedding$", (None, "fsdp"))`. The first match applies, before the rules of `sharding.py`.
    """

    fsdp: int = 1
    rules: tuple[ShardingRule, ...] = ()

    def __post_init__(self) -> None:
        for pattern, axes in self.rules:
            named = [axis for axis in axes if axis is not None]
            if len(set(named)) < len(named):
                raise ValueError(f"mesh.rules for {pattern!r} is {axes}; it must name each axis once at most")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a training run.

    The length of the run is one of `steps`, `examples` and `epochs`.

    seed: seed of initial weights, order of the data and augmentation.
    batch_size: pairs per step, over all devices.
    steps: length of the run in steps.
    examples: length of the run in pairs.
    epochs: length of the run in epochs over all sources together.
    microbatch_size: pairs that the model processes at a time, which bounds its memory; the gradient is that of the
        whole batch (default: all).
    dtype: dtype of the computation; parameters are float32.
    remat: what the backward pass keeps; "auto" takes the policy with the least arithmetic that fits the device.
    attention: kernel of the towers' attention (default: the fastest that the device has).
    scan_unroll: number of layers per iteration of the scan over layers; more compile longer and may run faster.
    log_every: steps between two lines of the log and of `metrics.jsonl`.
    checkpoint_every: steps between two checkpoints.
    keep_checkpoints: number of the newest checkpoints that are kept.
    keep_every: checkpoints of every such step are kept, too (0: none).
    keep_best: a metric in `metrics.jsonl` by which the best checkpoint is kept: the lowest value if its name ends in
        "loss", else the highest.
    evaluate_every: steps between two evaluations during training (0: none).
    keep_evaluated_exports: whether the exports that these evaluations write are kept.
    """

    seed: Seed
    batch_size: PositiveInt
    objective: Objective
    optimizer: OptimizerSettings
    steps: PositiveInt | None = None
    examples: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    mesh: MeshSettings = MeshSettings()
    recovery: RecoverySettings = dataclasses.field(default_factory=RecoverySettings)
    monitor: MonitorSettings = dataclasses.field(default_factory=MonitorSettings)
    microbatch_size: PositiveInt | None = None
    dtype: Dtype = "float32"
    remat: Remat = "none"
    attention: AttentionKernel = "auto"
    scan_unroll: PositiveInt = 1
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 2
    keep_every: NonNegativeInt = 0
    keep_best: str | None = None
    evaluate_every: NonNegativeInt = 0
    keep_evaluated_exports: bool = False

    def __post_init__(self) -> None:
        if (self.keep_best or "").startswith("evaluation/") and not self.evaluate_every:
            raise ValueError(f"keep_best is {self.keep_best!r}, but evaluate_every is 0, so it is never measured")
        lengths = {name: getattr(self, name) for name in ("steps", "examples", "epochs")}
        given = [f"{name}={value}" for name, value in lengths.items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                "the length of a run is one of steps, examples and epochs; the config sets "
                f"{', '.join(given) or 'none of them'}"
            )
        if self.epochs is None:
            self.check_schedules()

    def check_schedules(self, num_samples: int | None = None) -> None:
        """Raise `ValueError` if the schedules of learning rate or objective are longer than the run.

        `num_samples` is needed for a run of `epochs`, as for `num_steps`.
        """
        steps = self.num_steps(num_samples)
        create_schedule(self.optimizer, steps)
        self.objective.check_steps(steps)

    def num_steps(self, num_samples: int | None = None) -> int:
        """Return the length of the run in steps; `num_samples` is needed for a run of `epochs`.

        Without it, the result is the smallest number of steps that the schedules allow.
        """
        if self.steps is not None:
            return self.steps
        if self.examples is not None:
            return -(-self.examples // self.batch_size)
        if num_samples is None:
            context = self.objective.context_start_step + self.objective.context_ramp_steps
            return max(self.optimizer.warmup_steps + self.optimizer.cooldown_steps, context + 1)
        return max(1, math.ceil(Fraction(str(self.epochs)) * num_samples / self.batch_size))

    @property
    def microbatches(self) -> int:
        """Number of microbatches per batch."""
        return 1 if self.microbatch_size is None else self.batch_size // self.microbatch_size

    def image_preprocessing(self) -> Preprocessing | None:
        """Return the preprocessing of images, or None for a run on features."""
        return None

    def check_mesh(self, mesh: Mesh) -> None:
        """Raise `ValueError`, naming sizes that fit, if the batch does not fit the devices of the mesh."""
        check_batch_size(self.batch_size, mesh, self.microbatch_size)
        self.objective.check_batch(self.batch_size, mesh.size)

    @property
    def computation(self) -> dict[str, Any]:
        """The settings of `ModelSettings` that say how a model is computed."""
        names = ("dtype", "remat", "attention", "scan_unroll")
        return {name: getattr(self, name) for name in names}


RUN_SECTIONS = {
    "objective": Objective,
    "optimizer": OptimizerSettings,
    "mesh": MeshSettings,
    "recovery": RecoverySettings,
    "monitor": MonitorSettings,
}


def build_sections(sections: Mapping[str, type], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config, with those of `sections` as their settings; see `build` for errors."""
    return {
        name: build(sections[name], name, value) if name in sections and value is not None else value
        for name, value in config.items()
    }

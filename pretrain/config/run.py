"""Settings of a pretraining run: read from a config, checked before anything is computed, and kept in the workdir."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from jax.sharding import Mesh
from pydantic import Field

from data.pipeline.augmentation import Augmentation
from data.pipeline.sampler import check_groups
from foundation.files.output_folder import RUN_FILE
from foundation.settings import NonNegativeInt, PositiveFloat, PositiveInt, Seed, build
from models.config import AttentionKernel, Dtype, ModelSettings, Remat, TextSettings, VisionSettings
from models.preprocessing import Preprocessing
from models.text.tokenizer import Tokenizer, open_tokenizer
from pretrain.config.data import DataSettings, TokenizerSettings
from pretrain.config.initialization import resolve
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
class PretrainSettings:
    """Settings of a pretraining run.

    The towers are those of `initial_checkpoint` (a folder, an `.npz` file or a hub id, see `models/checkpoints/io.py`),
    or of a published size: `family` "siglip" or "clip" and `variant` such as "B/16" (`models/variants.py`); the
    sections `vision` and `text` set the rest. `preprocessing` is exported with the towers.

    The length of the run is one of `steps`, `examples` (pairs) and `epochs` (over all sources together). With
    `microbatch_size`, the towers process that many pairs of the batch at a time, which bounds their memory; the
    gradient is that of the whole batch. The run is evaluated every `evaluate_every` steps (0: never).

    A checkpoint is written every `checkpoint_every` steps. Kept are the newest `keep_checkpoints`, those of every
    `keep_every`-th step (0: none), and the best by `keep_best`, a metric in `metrics.jsonl`: the lowest value if its
    name ends in "loss", else the highest.
    """

    seed: Seed
    batch_size: PositiveInt
    vision: VisionSettings
    text: Mapping[str, Any]
    tokenizer: TokenizerSettings
    data: DataSettings
    augmentation: Augmentation
    objective: Objective
    optimizer: OptimizerSettings
    steps: PositiveInt | None = None
    examples: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    family: str = "siglip"
    variant: str | None = None
    initial_checkpoint: str | None = None
    preprocessing: Preprocessing | None = None
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
        check_groups(
            group_size=self.data.group_size,
            views=self.data.views,
            batch_size=self.batch_size,
            weights=self.data.weights,
        )
        if (self.keep_best or "").startswith("evaluation/") and not self.evaluate_every:
            raise ValueError(f"keep_best is {self.keep_best!r}, but evaluate_every is 0, so it is never measured")
        if self.preprocessing is not None and self.preprocessing.shape != self.vision.image_shape:
            raise ValueError(
                f"preprocessing makes images of {self.preprocessing.shape} pixels, but vision.image_size is "
                f"{self.vision.image_size}. Change one of them."
            )
        lengths = {name: getattr(self, name) for name in ("steps", "examples", "epochs")}
        given = [f"{name}={value}" for name, value in lengths.items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                "the length of a run is one of steps, examples and epochs; the config sets "
                f"{', '.join(given) or 'none of them'}"
            )
        if self.epochs is None:
            create_schedule(self.optimizer, self.num_steps())  # raises if its phases are longer than the run

    def num_steps(self, num_samples: int | None = None) -> int:
        """Return the length of the run in steps; `num_samples` is needed for a run of `epochs`.

        Without it, the result is the smallest number of steps that the schedule allows.
        """
        if self.steps is not None:
            return self.steps
        if self.examples is not None:
            return -(-self.examples // self.batch_size)
        if num_samples is None:
            return max(1, self.optimizer.warmup_steps + self.optimizer.cooldown_steps)
        return max(1, math.ceil(Fraction(str(self.epochs)) * num_samples / self.batch_size))

    @property
    def microbatches(self) -> int:
        """Number of microbatches per batch."""
        return 1 if self.microbatch_size is None else self.batch_size // self.microbatch_size

    def max_vocab_size(self) -> int:
        """Return the largest possible number of token ids; captions need not exist yet. Opens an existing tokenizer."""
        if self.text.get("vocab_size") is not None:
            return self.text["vocab_size"]
        chosen = self.tokenizer
        return chosen.trained_size or open_tokenizer(chosen.name, length=self.text["length"]).vocab_size

    def check_mesh(self, mesh: Mesh) -> None:
        """Raise `ValueError`, naming sizes that fit, if the batch does not fit the devices of the mesh."""
        check_batch_size(self.batch_size, mesh, self.microbatch_size)
        self.objective.check_batch(self.batch_size, mesh.size)

    def image_preprocessing(self) -> Preprocessing:
        """Return the preprocessing of images for the towers."""
        return self.preprocessing or Preprocessing(size=self.vision.image_shape)

    def model_for(self, tokenizer: Tokenizer) -> ModelSettings:
        """Return the settings of the towers for a tokenizer; raises `ValueError` if it does not fit them."""
        if self.text.get("pooling") == "end" and "end_id" not in self.text:
            truncated = tokenizer(["a " * self.text["length"]])[0]
            if tokenizer.end_id is None or tokenizer.end_id not in truncated:
                raise ValueError(
                    "text.pooling is 'end', but the tokenizer does not end truncated texts with an end token. Set "
                    "text.pooling to 'last'."
                )
        return self.model(tokenizer.vocab_size, tokenizer.end_id)

    def model(self, vocab_size: int, end_id: int | None = None) -> ModelSettings:
        """Return the settings of the towers for `vocab_size` token ids; `end_id` ends texts."""
        values = {"vocab_size": vocab_size, **self.text}
        if values.get("pooling") == "end":
            values.setdefault("end_id", end_id)
        text = build(TextSettings, "text", values)
        if text.vocab_size < vocab_size:
            raise ValueError(
                f"text.vocab_size is {text.vocab_size:,}, but the tokenizer has {vocab_size:,} token ids. Increase or "
                "remove it."
            )
        return ModelSettings(
            vision=self.vision,
            text=text,
            dtype=self.dtype,
            remat=self.remat,
            attention=self.attention,
            scan_unroll=self.scan_unroll,
        )


SETTINGS_FILE = RUN_FILE
SECTIONS = {
    "vision": VisionSettings,
    "tokenizer": TokenizerSettings,
    "data": DataSettings,
    "augmentation": Augmentation,
    "objective": Objective,
    "optimizer": OptimizerSettings,
    "mesh": MeshSettings,
    "recovery": RecoverySettings,
    "monitor": MonitorSettings,
    "preprocessing": Preprocessing,
}


def read_settings(config: Mapping[str, Any], workdir: pathlib.Path | None = None) -> PretrainSettings:
    """Return the settings of the `pretrain` section of a config.

    If `workdir` contains the run already, its initial checkpoint need not exist any more. Raises `ValueError` for
    unknown, missing and invalid settings.
    """
    kept = None
    if config.get("initial_checkpoint") is not None and workdir is not None and (workdir / SETTINGS_FILE).is_file():
        kept = dataclasses.asdict(load_settings(workdir))
    return _build_sections(resolve(config, kept=kept))


def load_settings(workdir: pathlib.Path) -> PretrainSettings:
    """Return the settings of the run in `workdir`."""
    path = workdir / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} contains no run. Start one with `launch.py pretrain --workdir={workdir}`.")
    return _build_sections(json.loads(path.read_text(encoding="utf-8")))


def _build_sections(config: Mapping[str, Any]) -> PretrainSettings:
    values = {
        name: build(SECTIONS[name], name, value) if name in SECTIONS and value is not None else value
        for name, value in config.items()
    }
    values["text"] = dict(values.get("text", {}))
    settings = build(PretrainSettings, "pretrain", values)
    settings.model(vocab_size=1)  # checks the text section now
    return settings

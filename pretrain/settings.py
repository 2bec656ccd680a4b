"""From a config file to typed settings: every section is checked before anything is computed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from data.images import Augmentation
from models.settings import ModelSettings, TextSettings, VisionSettings, build
from pretrain.objective import Objective
from pretrain.optimizer import OptimizerSettings, create_schedule
from pretrain.sharding import check_batch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the pairs come from. `sources` are shard patterns or `emoji:ARTIST`; `threads` make batches ahead."""

    sources: tuple[str, ...]
    caption: str = "random"
    threads: int = 2

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("data.sources is empty; name one or more shards")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """The tokenizer that is trained on the captions."""

    vocab_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Parameters are split over `fsdp` devices and copied over the rest.

    `rules` are pairs of a regular expression over the paths of parameters and what each axis is split over, for example
    `("token_embedding$", (None, "fsdp"))`; the first that is found decides, before those of `pretrain/sharding.py`.
    """

    fsdp: int = 1
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    def __post_init__(self) -> None:
        for rule in self.rules:
            pair = isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)
            named = [axis for axis in rule[1] if axis is not None] if pair and isinstance(rule[1], tuple) else [None]
            if not all(isinstance(axis, str) for axis in named) or len(set(named)) < len(named):
                raise ValueError(
                    f"mesh.rules has {rule!r}, which is not a pair of a pattern and a tuple of axes or Nones: "
                    '("token_embedding$", (None, "fsdp"))'
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Everything that defines a pretraining run.

    With `microbatch_size` the towers work on so many pairs of the batch at a time, which bounds their memory; the
    gradient is that of the whole batch.
    """

    seed: int
    steps: int
    batch_size: int
    vision: VisionSettings
    text: Mapping[str, Any]
    tokenizer: TokenizerSettings
    data: DataSettings
    augmentation: Augmentation
    objective: Objective
    optimizer: OptimizerSettings
    mesh: MeshSettings = MeshSettings()
    microbatch_size: int | None = None
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    scan_unroll: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.microbatch_size is not None and self.microbatch_size < 1:
            raise ValueError(f"microbatch_size is {self.microbatch_size}; it must be at least 1, or None")
        create_schedule(self.optimizer, self.steps)  # checks that its parts fit the run

    @property
    def microbatches(self) -> int:
        """The number of parts that the towers cut the batch into."""
        return 1 if self.microbatch_size is None else self.batch_size // self.microbatch_size

    def check_mesh(self, mesh: Mesh) -> None:
        """Raises `ValueError`, naming what fits, for a batch that does not fit the mesh's devices."""
        check_batch_size(self.batch_size, mesh, self.microbatch_size)
        self.objective.check_batch(self.batch_size, mesh.size)

    def model(self, vocab_size: int) -> ModelSettings:
        """Returns the towers' settings for a tokenizer of `vocab_size` ids."""
        text = build(TextSettings, "text", {**self.text, "vocab_size": vocab_size})
        return ModelSettings(
            vision=self.vision,
            text=text,
            dtype=self.dtype,
            remat=self.remat,
            attention=self.attention,
            scan_unroll=self.scan_unroll,
        )


SECTIONS = {
    "vision": VisionSettings,
    "tokenizer": TokenizerSettings,
    "data": DataSettings,
    "augmentation": Augmentation,
    "objective": Objective,
    "optimizer": OptimizerSettings,
    "mesh": MeshSettings,
}
# What may change when a run is continued, because the parameters depend on it by rounding at most.
_FREE = ("log_every", "checkpoint_every", "keep_checkpoints", "mesh.fsdp", "mesh.rules", "microbatch_size", "remat")
_FREE += ("attention", "scan_unroll", "objective.block_size", "objective.gather_limit")


def read_settings(config: Mapping[str, Any]) -> PretrainSettings:
    """Returns the typed settings of the `pretrain` section of a config; an unknown key names the known ones."""
    values = {name: build(SECTIONS[name], name, value) if name in SECTIONS else value for name, value in config.items()}
    values["text"] = dict(values.get("text", {}))
    settings = build(PretrainSettings, "pretrain", values)
    settings.model(vocab_size=max(1, settings.tokenizer.vocab_size))  # checks the text section now
    return settings


def claim_workdir(workdir: pathlib.Path, settings: PretrainSettings) -> None:
    """Writes the settings to `workdir/pretrain.json`, or checks that the run found there has the same ones.

    Raises `ValueError` naming the first difference: a run continues only as what it was.
    """
    path = workdir / "pretrain.json"
    ours = json.loads(json.dumps(dataclasses.asdict(settings)))
    if path.exists():
        theirs = json.loads(json.dumps(dataclasses.asdict(load_settings(workdir))))
        for name, (before, now) in _differences(theirs, ours):
            if name not in _FREE:
                raise ValueError(
                    f"{workdir} holds a run with {name} = {before!r}, and this config says {now!r}; "
                    "continue it with its own config or name another --workdir"
                )
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def load_settings(workdir: pathlib.Path) -> PretrainSettings:
    """Returns the settings of the run in `workdir`."""
    path = workdir / "pretrain.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no run; `launch.py pretrain --workdir={workdir}` starts one")
    return read_settings(_tuples(json.loads(path.read_text(encoding="utf-8"))))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list:
    found = []
    for name in sorted(set(before) | set(now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append((prefix + name, (old, new)))
    return found


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

"""From a config file to typed settings: every section is checked before anything is computed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from jax.sharding import Mesh

from data.pipeline.augmentation import Augmentation
from data.pipeline.image_ops import MAX_PIXELS
from data.pipeline.loader import CAPTIONS
from data.pipeline.sampler import check_groups, check_weights
from data.sources.open import IMAGE_KEYS, TEXT_KEYS
from models.config import ModelSettings, TextSettings, VisionSettings, build
from models.preprocessing import Preprocessing
from models.text.canonicalize import CANONICALIZATIONS
from models.text.tokenizer import Tokenizer, open_tokenizer
from pretrain.config.initialization import CHECKPOINT_TOKENIZER, resolve
from pretrain.config.monitor import MonitorSettings
from pretrain.distributed.sharding import check_batch_size
from pretrain.loss_rollback import RecoverySettings
from pretrain.losses.context_objective import Objective
from pretrain.optim.optimizer import OptimizerSettings, create_schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the pairs come from, and how they become batches; `data/README.md` has the sources.

    Without `weights` all sources are one set, shuffled together; with them each has its share of the examples.
    `text_keys` and `image_keys` name the fields or columns that hold captions and pictures, the first found counts.
    `threads` make batches ahead, in each of `workers` processes, or here where that is 0. A picture of more than
    `max_pixels` is not decoded. With `group_size` above 1, so many samples of similar texts come together in a batch,
    in groups that are made once from all texts (`caption_groups.py`); it goes without `weights`. With `views`
    above 1, each sample comes so many times in a batch, with a caption and an augmentation of its own each time (batch
    augmentation, arXiv 1901.09335). More than `max_bad_share` unusable records in a `bad_window` of them end the run.
    """

    sources: tuple[str, ...]
    weights: tuple[float, ...] = ()
    caption: str = "random"
    text_keys: tuple[str, ...] = TEXT_KEYS
    image_keys: tuple[str, ...] = IMAGE_KEYS
    threads: int = 2
    workers: int = 0
    max_pixels: int = MAX_PIXELS
    group_size: int = 1
    views: int = 1
    max_bad_share: float = 0.05
    bad_window: int = 1000

    def __post_init__(self) -> None:
        for name in ("sources", "text_keys", "image_keys"):
            values = getattr(self, name)
            if not values or not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
                what = "one or more shards" if name == "sources" else "one or more of them"
                raise ValueError(f"data.{name} is {'empty' if not values else repr(values)}; name {what}")
        for name, least in (("threads", 1), ("workers", 0), ("max_pixels", 1), ("bad_window", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"data.max_bad_share {self.max_bad_share} is not within [0, 1]")
        if self.caption not in CAPTIONS:
            raise ValueError(f"unknown data.caption {self.caption!r}; known: {', '.join(CAPTIONS)}")
        check_weights(self.weights, len(self.sources))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """How captions become token ids.

    `name` is `train:VOCAB`, which trains a byte-pair tokenizer of so many ids on the captions, or any Hugging Face
    tokenizer: a folder, the path of a `tokenizer.json`, or a hub id; `checkpoint` is that of the initial checkpoint.
    `canonicalize` is what is done to texts before, one of `CANONICALIZATIONS`; None is "siglip" where a tokenizer is
    trained, "none" for one that is given, and for that of a checkpoint what belongs to it.
    """

    name: str
    canonicalize: str | None = None

    def __post_init__(self) -> None:
        number = self.name.removeprefix("train:")
        if number != self.name and not (number.isdecimal() and int(number) > 0):
            raise ValueError(f"tokenizer.name is {self.name!r}; write the number of ids as in train:32000")
        if self.name == CHECKPOINT_TOKENIZER and self.canonicalize is not None:
            raise ValueError("tokenizer.canonicalize goes with the checkpoint's tokenizer; leave it out")
        if self.canonicalize not in (None, *CANONICALIZATIONS):
            known = ", ".join(CANONICALIZATIONS)
            raise ValueError(f"unknown tokenizer.canonicalize {self.canonicalize!r}; known: {known}")

    @property
    def trained_size(self) -> int | None:
        """VOCAB of `train:VOCAB`; None for a tokenizer that is given."""
        return int(self.name.removeprefix("train:")) if self.name.startswith("train:") else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Parameters are split over `fsdp` devices and copied over the rest.

    `rules` are pairs of a regular expression over the paths of parameters and what each axis is split over, for example
    `("token_embedding$", (None, "fsdp"))`; the first that is found decides, before those of `sharding.py`.
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

    The towers are those of `initial_checkpoint` (a folder, an `.npz` or a hub id, as `models/checkpoints/io.py` opens
    them), or of a published size: `family` "siglip" or "clip" and `variant` such as "B/16" (`models/variants.py`); the
    sections `vision` and `text` have the rest. `preprocessing` is how pixels enter, which travels with the export.

    Its length is told by one of `steps`, `examples` (pairs) and `epochs` (of all sources together). With
    `microbatch_size` the towers work on so many pairs of the batch at a time, which bounds their memory; the gradient
    is that of the whole batch. Every `evaluate_every` steps, where that is not 0, the run is evaluated.

    A checkpoint is written every `checkpoint_every` steps. The newest `keep_checkpoints` stay, those of every
    `keep_every`-th step (0: none), and the best by a metric of `metrics.jsonl`, `keep_best`, where one is named: of
    names that end in "loss" the lowest, of others the highest.
    """

    seed: int
    batch_size: int
    vision: VisionSettings
    text: Mapping[str, Any]
    tokenizer: TokenizerSettings
    data: DataSettings
    augmentation: Augmentation
    objective: Objective
    optimizer: OptimizerSettings
    steps: int | None = None
    examples: int | None = None
    epochs: float | None = None
    family: str = "siglip"
    variant: str | None = None
    initial_checkpoint: str | None = None
    preprocessing: Preprocessing | None = None
    mesh: MeshSettings = MeshSettings()
    recovery: RecoverySettings = dataclasses.field(default_factory=RecoverySettings)
    monitor: MonitorSettings = dataclasses.field(default_factory=MonitorSettings)
    microbatch_size: int | None = None
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    scan_unroll: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    keep_every: int = 0
    keep_best: str | None = None
    evaluate_every: int = 0
    keep_evaluated_exports: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "examples", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("evaluate_every", "keep_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a number of steps, or 0 for never")
        check_groups(
            group_size=self.data.group_size,
            views=self.data.views,
            batch_size=self.batch_size,
            weights=self.data.weights,
        )
        if (self.keep_best or "").startswith("evaluation/") and not self.evaluate_every:
            raise ValueError(f"keep_best is {self.keep_best!r}, and evaluate_every is 0: nothing would tell it")
        if self.preprocessing is not None and self.preprocessing.shape != self.vision.image_shape:
            raise ValueError(
                f"preprocessing makes images of {self.preprocessing.shape} pixels, and vision.image_size is "
                f"{self.vision.image_size}"
            )
        lengths = {name: getattr(self, name) for name in ("steps", "examples", "epochs")}
        given = {name: value for name, value in lengths.items() if value is not None}
        if len(given) != 1:
            told = ", ".join(f"{name}={value}" for name, value in given.items()) or "none of them"
            raise ValueError(f"the length of a run is one of steps, examples and epochs; the config has {told}")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs is {self.epochs}; it must be a positive number")
        if self.microbatch_size is not None and self.microbatch_size < 1:
            raise ValueError(f"microbatch_size is {self.microbatch_size}; it must be at least 1, or None")
        if self.epochs is None:
            create_schedule(self.optimizer, self.num_steps())  # checks that its parts fit the run

    def num_steps(self, num_samples: int | None = None) -> int:
        """Returns the run's length in steps; a run of epochs needs to know the `num_samples` of one.

        Where they are not known yet, it is the least number that the schedule fits.
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
        """The number of parts that the towers cut the batch into."""
        return 1 if self.microbatch_size is None else self.batch_size // self.microbatch_size

    def max_vocab_size(self) -> int:
        """Returns how many token ids there can be, before there are captions; opens a tokenizer that is given."""
        if self.text.get("vocab_size") is not None:
            return self.text["vocab_size"]
        chosen = self.tokenizer
        return chosen.trained_size or open_tokenizer(chosen.name, length=self.text["length"]).vocab_size

    def check_mesh(self, mesh: Mesh) -> None:
        """Raises `ValueError`, naming what fits, for a batch that does not fit the mesh's devices."""
        check_batch_size(self.batch_size, mesh, self.microbatch_size)
        self.objective.check_batch(self.batch_size, mesh.size)

    def entering(self) -> Preprocessing:
        """Returns how pixels enter the image tower."""
        return self.preprocessing or Preprocessing(size=self.vision.image_shape)

    def model_for(self, tokenizer: Tokenizer) -> ModelSettings:
        """Returns the towers' settings for a tokenizer; raises `ValueError` for one that does not fit them."""
        if self.text.get("pooling") == "end" and "end_id" not in self.text:
            cut = tokenizer(["a " * self.text["length"]])[0]
            if tokenizer.end_id is None or tokenizer.end_id not in cut:
                raise ValueError("text.pooling 'end' needs a tokenizer that ends its texts; set text.pooling to 'last'")
        return self.model(tokenizer.vocab_size, tokenizer.end_id)

    def model(self, vocab_size: int, end_id: int | None = None) -> ModelSettings:
        """Returns the towers' settings for a tokenizer of `vocab_size` ids, of which `end_id` ends texts."""
        values = {"vocab_size": vocab_size, **self.text}
        if values.get("pooling") == "end":
            values.setdefault("end_id", end_id)
        text = build(TextSettings, "text", values)
        if text.vocab_size < vocab_size:
            raise ValueError(f"the tokenizer has {vocab_size:,} ids, and text.vocab_size is {text.vocab_size:,}")
        return ModelSettings(
            vision=self.vision,
            text=text,
            dtype=self.dtype,
            remat=self.remat,
            attention=self.attention,
            scan_unroll=self.scan_unroll,
        )


SETTINGS_FILE = "pretrain.json"
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
# What may change when a run is continued, because the parameters depend on it by rounding at most.
_FREE = ("log_every", "checkpoint_every", "keep_checkpoints", "mesh.fsdp", "mesh.rules", "microbatch_size", "remat")
_FREE += ("attention", "scan_unroll", "objective.block_size", "objective.gather_limit", "data.threads", "data.workers")
_FREE += ("data.max_bad_share", "data.bad_window", "evaluate_every", "keep_evaluated_exports")
_FREE += ("keep_every", "keep_best")
_FREE_SECTIONS = ("recovery.", "monitor.")


def read_settings(config: Mapping[str, Any], workdir: pathlib.Path | None = None) -> PretrainSettings:
    """Returns the typed settings of the `pretrain` section of a config; an unknown key names the known ones.

    Where `workdir` holds the run already, the checkpoint that it began with need not be there any more.
    """
    kept = None
    if config.get("initial_checkpoint") is not None and workdir is not None and (workdir / SETTINGS_FILE).is_file():
        kept = dataclasses.asdict(load_settings(workdir))
    return _typed(resolve(config, kept=kept))


def _typed(config: Mapping[str, Any]) -> PretrainSettings:
    values = {
        name: build(SECTIONS[name], name, value) if name in SECTIONS and value is not None else value
        for name, value in config.items()
    }
    values["text"] = dict(values.get("text", {}))
    settings = build(PretrainSettings, "pretrain", values)
    settings.model(vocab_size=1)  # checks the text section now
    return settings


def claim_workdir(workdir: pathlib.Path, settings: PretrainSettings) -> None:
    """Writes the settings to `workdir/pretrain.json`, or checks that the run found there has the same ones.

    Raises `ValueError` naming the first difference: a run continues only as what it was.
    """
    path = workdir / SETTINGS_FILE
    ours = json.loads(json.dumps(dataclasses.asdict(settings)))
    if path.exists():
        theirs = json.loads(json.dumps(dataclasses.asdict(load_settings(workdir))))
        for name, (before, now) in _differences(theirs, ours):
            if name not in _FREE and not name.startswith(_FREE_SECTIONS):
                raise ValueError(
                    f"{workdir} holds a run with {name} = {before!r}, and this config says {now!r}; "
                    "continue it with its own config or name another --workdir"
                )
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.partial")
    temporary.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def load_settings(workdir: pathlib.Path) -> PretrainSettings:
    """Returns the settings of the run in `workdir`."""
    path = workdir / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no run; `launch.py pretrain --workdir={workdir}` starts one")
    return _typed(_tuples(json.loads(path.read_text(encoding="utf-8"))))


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

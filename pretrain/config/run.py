"""Settings of a pretraining run: read from a config, checked before anything is computed, and kept in the workdir."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from data.pipeline.augmentation import Augmentation
from data.pipeline.sampler import check_groups
from foundation.settings import build
from models.config import ModelSettings, VisionSettings
from models.preprocessing import Preprocessing
from models.text.tokenizer import Tokenizer
from pretrain.config.data import DataSettings, TokenizerSettings
from pretrain.config.initialization import resolve
from pretrain.config.text_tower import max_vocab_size, text_settings, text_settings_for
from pretrain.config.training import RUN_SECTIONS, RunSettings, build_sections


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainSettings(RunSettings):
    """Settings of a pretraining run.

    The towers are those of `initial_checkpoint`, or of a published size: `family` and `variant`. The sections `vision`
    and `text` set the rest.

    initial_checkpoint: checkpoint to continue: a folder, an `.npz` file or a Hub id.
    family: "siglip" or "clip".
    variant: published size of the towers, such as "B/16" (`models/variants.py`).
    preprocessing: resizing and normalisation of images, exported with the towers (default: of the checkpoint, or
        resizing to the square).
    """

    vision: VisionSettings
    text: Mapping[str, Any]
    tokenizer: TokenizerSettings
    data: DataSettings
    augmentation: Augmentation
    family: str = "siglip"
    variant: str | None = None
    initial_checkpoint: str | None = None
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        check_groups(
            group_size=self.data.group_size,
            views=self.data.views,
            batch_size=self.batch_size,
            weights=self.data.weights,
        )
        if self.preprocessing is not None and self.preprocessing.shape != self.vision.image_shape:
            raise ValueError(
                f"preprocessing makes images of {self.preprocessing.shape} pixels, but vision.image_size is "
                f"{self.vision.image_size}. Change one of them."
            )
        super().__post_init__()

    def max_vocab_size(self) -> int:
        """Return the largest possible number of token ids; captions need not exist yet. Opens an existing tokenizer."""
        return max_vocab_size(self.text, self.tokenizer)

    def image_preprocessing(self) -> Preprocessing:
        """Return the preprocessing of images for the towers."""
        return self.preprocessing or Preprocessing(size=self.vision.image_shape)

    def model_for(self, tokenizer: Tokenizer) -> ModelSettings:
        """Return the settings of the towers for a tokenizer; raises `ValueError` if it does not fit them."""
        return ModelSettings(vision=self.vision, text=text_settings_for(self.text, tokenizer), **self.computation)

    def model(self, vocab_size: int, end_id: int | None = None) -> ModelSettings:
        """Return the settings of the towers for `vocab_size` token ids; `end_id` ends texts."""
        return ModelSettings(vision=self.vision, text=text_settings(self.text, vocab_size, end_id), **self.computation)


SETTINGS_FILE = "pretrain.json"
SECTIONS = RUN_SECTIONS | {
    "vision": VisionSettings,
    "tokenizer": TokenizerSettings,
    "data": DataSettings,
    "augmentation": Augmentation,
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
    values = build_sections(SECTIONS, config)
    values["text"] = dict(values.get("text", {}))
    settings = build(PretrainSettings, "pretrain", values)
    settings.model(vocab_size=1)  # checks the text section now
    return settings

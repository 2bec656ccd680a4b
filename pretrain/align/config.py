"""Settings of the `align` section of a config."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from data.sources.open import TEXT_KEYS
from foundation.settings import PositiveInt, UnitFloat, build
from models.config import FeatureHeadSettings, HeadOptions, ModelSettings, TextSettings
from pretrain.config.data import Names, TokenizerSettings
from pretrain.config.initialization import CHECKPOINT_TOKENIZER
from pretrain.config.text_tower import text_settings
from pretrain.config.training import RUN_SECTIONS, RunSettings, build_sections

SETTINGS_FILE = "align.json"
_STATISTICS = r"^model/(vision|text)/(mean|deviation)$"  # of heads that standardise


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignSettings(RunSettings):
    """Settings of a run that aligns stored image features with texts.

    Texts are features of another encoder, or captions, for which a text tower is trained from scratch.

    image_features, text_features: folders of `launch.py embed`, or `.safetensors` and `.npy` files of any encoder.
    captions: sources of captions, as in `pretrain.data.sources`; no image is read.
    text_keys: fields or columns with captions; the first that exists is used.
    pairs: a table of image and text ids, where the ids differ or an image has several texts. Texts with the id of their
        image need none. One text of an image is drawn per epoch.
    pairing: "id", "row", or "auto": by id where both sides have ids.
    wrong_texts: the share of texts to replace by those of other images, once, for studies of noisy captions.
    dim: dimensions of the embedding (default: those of the smaller features, or the width of the text tower).
    image_head, text_head: the heads (`models.config.HeadOptions`).
    text, tokenizer: text tower and tokenizer for captions, as in `pretrain`.
    image_encoder, text_encoder: names of the encoders, for the model card, where the files do not record them.
    """

    image_features: Names
    text_features: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    text_keys: Names = TEXT_KEYS
    pairs: str | None = None
    pairing: Literal["auto", "id", "row"] = "auto"
    wrong_texts: UnitFloat = 0.0
    dim: PositiveInt | None = None
    image_head: HeadOptions = dataclasses.field(default_factory=HeadOptions)
    text_head: HeadOptions = dataclasses.field(default_factory=HeadOptions)
    text: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer: TokenizerSettings | None = None
    image_encoder: str | None = None
    text_encoder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.text_features) == bool(self.captions):
            given = "both" if self.captions else "neither"
            raise ValueError(f"the texts are one of text_features and captions; the config sets {given}")
        if self.captions and not (self.text and self.tokenizer):
            raise ValueError("captions need a text tower: set align.text and align.tokenizer, as in pretrain")
        if self.captions and self.pairs:
            raise ValueError(f"align.pairs {self.pairs} is for text features; captions have the ids of their own table")
        if self.tokenizer is not None and self.tokenizer.name == CHECKPOINT_TOKENIZER:
            raise ValueError("tokenizer.name 'checkpoint' needs an initial checkpoint. Name a tokenizer, or train one.")

    @property
    def text_length(self) -> int:
        """Number of tokens of a text; only for a text tower."""
        return text_settings(self.text, vocab_size=1).length

    def model(self, image_dim: int, text: int | TextSettings) -> ModelSettings:
        """Return the settings of the model for image features of `image_dim` dimensions.

        `text` is the number of dimensions of the text features, or the settings of the text tower.
        """
        tower = isinstance(text, TextSettings)
        dim = self.dim or (text.width if tower else min(image_dim, text))
        return ModelSettings(
            vision=_head(self.image_head, input_dim=image_dim, dim=dim),
            text=text if tower else _head(self.text_head, input_dim=text, dim=dim),
            **self.computation,
        )

    def with_fixed_statistics(self, model: ModelSettings) -> AlignSettings:
        """Return the settings with which heads do not train the statistics that they standardise features by."""
        heads = [each for each in (model.vision, model.text) if isinstance(each, FeatureHeadSettings)]
        if not any(head.standardize for head in heads):
            return self
        optimizer = dataclasses.replace(self.optimizer, frozen=(*self.optimizer.frozen, _STATISTICS))
        return dataclasses.replace(self, optimizer=optimizer)


def _head(options: HeadOptions, *, input_dim: int, dim: int) -> FeatureHeadSettings:
    return FeatureHeadSettings(**dataclasses.asdict(options), input_dim=input_dim, dim=dim)


SECTIONS = RUN_SECTIONS | {"image_head": HeadOptions, "text_head": HeadOptions, "tokenizer": TokenizerSettings}


def read_settings(config: Mapping[str, Any]) -> AlignSettings:
    """Return the settings of the `align` section of a config; raise `ValueError` for invalid ones."""
    values = build_sections(SECTIONS, config)
    values["text"] = dict(values.get("text") or {})
    settings = build(AlignSettings, "align", values)
    if settings.captions:
        text_settings(settings.text, vocab_size=1)  # checks the text section now
    return settings


def load_settings(workdir: pathlib.Path) -> AlignSettings:
    """Return the settings of the run in `workdir`."""
    path = workdir / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} contains no run. Start one with `launch.py align --workdir={workdir}`.")
    return read_settings(json.loads(path.read_text(encoding="utf-8")))

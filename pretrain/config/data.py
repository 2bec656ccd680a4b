"""Settings of the `data` and `tokenizer` sections."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from data.pipeline.image_ops import MAX_PIXELS
from data.pipeline.loader import Caption
from data.pipeline.sampler import check_weights
from data.sources.open import IMAGE_KEYS, TEXT_KEYS
from foundation.settings import NonNegativeInt, PositiveInt, UnitFloat
from foundation.suggestions import unknown_name
from models.text.canonicalize import CANONICALIZATIONS

Names = Annotated[tuple[str, ...], Field(min_length=1, description="a tuple of one or more strings")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Settings of the training data; `data/README.md` describes the sources.

    sources: one or more sources of images with captions.
    weights: share of each source in the examples (default: all samples are shuffled together).
    caption: which of a sample's captions is used.
    text_keys, image_keys: fields or columns with captions and images; the first that exists is used.
    threads: threads that prepare batches, in each worker.
    workers: worker processes that prepare batches (0: threads of the training process).
    max_pixels: larger images are not decoded and count as bad records.
    group_size: samples with similar texts that come in the same batch. Groups are formed once from all texts
        (`caption_groups.py`); not available with `weights`.
    views: copies of each sample in a batch, each with its own caption and augmentation (batch augmentation, arXiv
        1901.09335).
    max_bad_share: the run ends when more than this share of `bad_window` consecutive records is unusable.
    bad_window: number of consecutive records over which that share is taken.
    """

    sources: Names
    weights: tuple[float, ...] = ()
    caption: Caption = "random"
    text_keys: Names = TEXT_KEYS
    image_keys: Names = IMAGE_KEYS
    threads: PositiveInt = 2
    workers: NonNegativeInt = 0
    max_pixels: PositiveInt = MAX_PIXELS
    group_size: PositiveInt = 1
    views: PositiveInt = 1
    max_bad_share: UnitFloat = 0.05
    bad_window: PositiveInt = 1000

    def __post_init__(self) -> None:
        check_weights(self.weights, len(self.sources))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """Settings of the tokenizer.

    name: `train:VOCAB` trains a byte-pair tokenizer with VOCAB token ids on the captions; `checkpoint` is the tokenizer
        of the initial checkpoint; anything else is a Hugging Face tokenizer: a folder, the path of a `tokenizer.json`
        or a hub id.
    canonicalize: how texts are normalised first, one of `CANONICALIZATIONS` (default: "siglip" for a trained tokenizer,
        "none" for an existing one, and as the checkpoint was trained for `checkpoint`).
    """

    name: str
    canonicalize: str | None = None

    def __post_init__(self) -> None:
        number = self.name.removeprefix("train:")
        if number != self.name and not (number.isdecimal() and int(number) > 0):
            raise ValueError(f"tokenizer.name is {self.name!r}; write the number of token ids, as in train:32000")
        if self.canonicalize not in (None, *CANONICALIZATIONS):
            raise ValueError(unknown_name("tokenizer.canonicalize", self.canonicalize, CANONICALIZATIONS))

    @property
    def trained_size(self) -> int | None:
        """VOCAB of `train:VOCAB`; None for an existing tokenizer."""
        return int(self.name.removeprefix("train:")) if self.name.startswith("train:") else None

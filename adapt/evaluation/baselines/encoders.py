"""Encoders without training: raw pixels, and the image tower of a checkpoint with random weights."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from adapt.embedding.encoder import Encoder, to_pixels
from adapt.embedding.recorded import open_recorded
from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import DECODING
from models.preprocessing import Preprocessing
from models.towers import create_model

_SIDE = 16  # pixels
_SEED = 0  # of the random weights


class _Dtype(NamedTuple):
    dtype: str


class PixelEncoder:
    """Embedding of an image as its pixels after resizing to 16 × 16, `[768]` in [0, 1].

    It does for images what `Encoder` does. The whole image is resized, without regard to its aspect ratio.
    """

    name = "raw pixels"
    settings = _Dtype("float32")
    dim = 3 * _SIDE * _SIDE
    preprocessing = Preprocessing(size=(_SIDE, _SIDE))

    @property
    def image_fingerprint(self) -> str:
        """A hash of everything that determines the embeddings."""
        return fingerprint(self.name, f"{DECODING} {self.preprocessing!r}")

    def iterate_images(self, image: Callable[[int], Image.Image], numbers: range) -> Iterator[np.ndarray]:
        """Yield the embeddings of `image(number)` for `numbers`, one by one, `[1, dim]` float32."""
        for number in numbers:
            yield to_pixels(image(number), self.preprocessing).reshape(1, -1).astype(np.float32) / 255


class UntrainedEncoder(Encoder):
    """The towers of a checkpoint with random weights, the same at every call; the checkpoint's own are not read."""

    def __init__(self, name: str | os.PathLike, **options: Any):
        super().__init__(name, **options)
        self.name = f"{self.name} untrained"

    @functools.cached_property
    def image_encoder(self) -> Encoder:
        """The encoder of the images: this one, or that whose features the image head maps, untrained as well."""
        return open_recorded(self._checkpoint, "vision", UntrainedEncoder) if self._has_image_head else self

    @functools.cached_property
    def _parameters(self) -> dict[str, Any]:
        return jax.device_put(create_model(self.settings).init(_SEED), self._replicated)

    @functools.cached_property
    def image_fingerprint(self) -> str:
        """A hash of the settings, the seed, decoding and preprocessing."""
        return fingerprint(f"untrained {_SEED}", *self._described())


def open_baseline(kind: str, checkpoint: str | os.PathLike, **size: int | None) -> PixelEncoder | UntrainedEncoder:
    """Return the encoder of a baseline in `adapt.choices.BASELINES`; `size` are the options of `Encoder` for images."""
    return PixelEncoder() if kind == "raw_pixels" else UntrainedEncoder(checkpoint, **size)

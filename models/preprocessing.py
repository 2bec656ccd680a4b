"""How pixels enter the image tower; travels with a checkpoint as `preprocessor_config.json`."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import jax
import jax.numpy as jnp

FILE = "preprocessor_config.json"
BICUBIC = 3  # PIL's number, which the file stores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Images are squeezed to squares of `image_size` pixels, scaled to [0, 1], less `mean`, divided by `std`."""

    image_size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: int = BICUBIC

    def normalize(self, images: jax.Array) -> jax.Array:
        """Maps pixels `[..., 3]` uint8 to float32 around zero."""
        scale = 1 / (255 * jnp.asarray(self.std, jnp.float32))
        return images.astype(jnp.float32) * scale - jnp.asarray(self.mean, jnp.float32) / jnp.asarray(
            self.std, jnp.float32
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the fields of a `SiglipImageProcessor`."""
        return {
            "image_processor_type": "SiglipImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": self.image_size, "width": self.image_size},
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def load_preprocessing(folder: str | os.PathLike) -> Preprocessing:
    """Reads `preprocessor_config.json`; raises `ValueError` where it asks for what is not done here."""
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} is no exported checkpoint: it holds no {FILE}") from error
    size = fields.get("size", {})
    if set(size) != {"height", "width"} or size["height"] != size["width"]:
        raise ValueError(f"{path}: size {size} is not read here; a square of equal height and width is")
    for field in ("do_resize", "do_rescale", "do_normalize"):
        if not fields.get(field, True):
            raise ValueError(f"{path}: {field} false is not read here")
    return Preprocessing(
        image_size=size["height"],
        mean=tuple(fields["image_mean"]),
        std=tuple(fields["image_std"]),
        resample=fields.get("resample", BICUBIC),
    )

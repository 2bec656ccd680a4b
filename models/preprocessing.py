"""How pixels enter the image tower; travels with a checkpoint as `preprocessor_config.json`."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from foundation.safe_json import read_json

FILE = "preprocessor_config.json"
NESTED_FILE = "processor_config.json"  # in which transformers 5 writes the same fields as `image_processor`
LARGEST_SIDE = 16_384
BICUBIC = 3  # PIL's number, which the file stores
_KINDS = re.compile(r"(CLIP|Siglip)(ImageProcessor|FeatureExtractor)(Fast|Pil)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Images are resized to `size`, cropped around their centre, multiplied by `rescale`, less `mean`, over `std`.

    `size` is (height, width), to which images are squeezed, or the length of the shortest edge, or None for images that
    are taken as they are; `crop` is (height, width) or None. Raises `ValueError` where images keep different sizes.
    """

    size: int | tuple[int, int] | None
    crop: tuple[int, int] | None = None
    resample: int = BICUBIC
    rescale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        sides = [side for part in (self.size, self.crop) if part is not None for side in np.ravel(part).tolist()]
        if not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
            raise ValueError(f"size {self.size} and crop {self.crop} must be whole numbers from 1 to {LARGEST_SIDE:,}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
                raise ValueError(f"{name} {values} is not a number for each of three colours")
        if not min(self.std) > 0:
            raise ValueError(f"std {self.std} is not positive")
        if not (isinstance(self.rescale, float | int) and math.isfinite(self.rescale) and self.rescale > 0):
            raise ValueError(f"rescale_factor {self.rescale!r} is not a positive number")
        if self.resample not in range(6):
            raise ValueError(f"resample {self.resample!r} is none of Pillow's filters, 0 to 5")
        if self.crop is None and not isinstance(self.size, tuple):
            raise ValueError(
                f"size {self.size} without a centre crop leaves images of many sizes; give a crop, or a size of height "
                "and width"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """The (height, width) in which every image enters the tower."""
        return self.size if self.crop is None else self.crop

    def for_shape(self, shape: tuple[int, int]) -> Preprocessing:
        """Returns the same for a tower of images of another (height, width): a crop keeps its share of the image."""
        if self.crop is None:
            return dataclasses.replace(self, size=shape)
        height, width = (new / old for new, old in zip(shape, self.crop, strict=True))
        if isinstance(self.size, int):
            return dataclasses.replace(self, size=round(self.size * max(height, width)), crop=shape)
        size = None if self.size is None else (round(self.size[0] * height), round(self.size[1] * width))
        return dataclasses.replace(self, size=size, crop=shape)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Maps pixels `[..., 3]` uint8 to float32 around zero."""
        std = np.asarray(self.std, np.float64)
        return images.astype(jnp.float32) * np.float32(self.rescale / std) - np.float32(self.mean / std)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields of a `SiglipImageProcessor`, or of a `CLIPImageProcessor` where images are cropped."""
        fields: dict[str, Any] = {
            "image_processor_type": "SiglipImageProcessor" if self.crop is None else "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": self.size is not None,
        }
        if isinstance(self.size, int):
            fields["size"] = {"shortest_edge": self.size}
        elif self.size is not None:
            fields["size"] = _to_size(self.size)
        fields["resample"] = self.resample
        if self.crop is not None:
            fields |= {"do_center_crop": True, "crop_size": _to_size(self.crop)}
        return fields | {
            "do_rescale": True,
            "rescale_factor": self.rescale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def load_preprocessing(folder: str | os.PathLike) -> Preprocessing:
    """Reads the image processor of a SigLIP, a SigLIP 2 of fixed resolution, or a CLIP.

    Raises `FileNotFoundError` where there is none and `ValueError` where it asks for what is not done here.
    """
    path, fields = _read_fields(folder)
    kind = fields.get("image_processor_type") or fields.get("feature_extractor_type")
    if kind is not None and not (isinstance(kind, str) and _KINDS.fullmatch(kind)):
        raise ValueError(f"{path}: {kind} is not read here; SiglipImageProcessor and CLIPImageProcessor are")
    if fields.get("do_pad"):
        raise ValueError(f"{path}: do_pad is not read here; resizing and a centre crop are")
    resized, rescaled, normalized = (fields.get(f"do_{name}", True) for name in ("resize", "rescale", "normalize"))
    try:
        return Preprocessing(
            size=_read_size(fields["size"]) if resized else None,
            crop=_read_crop(fields["crop_size"]) if fields.get("do_center_crop", "crop_size" in fields) else None,
            resample=fields.get("resample", BICUBIC),
            rescale=fields.get("rescale_factor", 1 / 255) if rescaled else 1.0,
            mean=tuple(fields["image_mean"]) if normalized else (0.0, 0.0, 0.0),
            std=tuple(fields["image_std"]) if normalized else (1.0, 1.0, 1.0),
        )
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_fields(folder: str | os.PathLike) -> tuple[str, Mapping[str, Any]]:
    """Returns the file that transformers reads, and the image processor's fields in it that are set."""
    for name in (NESTED_FILE, FILE):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue
        fields = read_json(path)
        fields = fields.get("image_processor") if name == NESTED_FILE else fields
        if fields and not isinstance(fields, Mapping):
            raise ValueError(f"{path} holds no JSON object")
        if fields:
            return path, {name: value for name, value in fields.items() if value is not None}
    raise FileNotFoundError(f"{folder} is no exported checkpoint: it holds no {FILE}")


def _read_size(size: int | Mapping[str, int]) -> int | tuple[int, int]:
    """Returns the shortest edge, which a plain number is in older files, or (height, width)."""
    if isinstance(size, int):
        return size
    given = {name: length for name, length in size.items() if length is not None}
    if set(given) == {"shortest_edge"}:
        return given["shortest_edge"]
    if set(given) == {"height", "width"}:
        return given["height"], given["width"]
    raise ValueError(f"size {given} is not read here; height and width or a shortest_edge are")


def _read_crop(size: int | Mapping[str, int]) -> tuple[int, int]:
    """Returns (height, width); a plain number in older files is both."""
    size = _read_size(size)
    return (size, size) if isinstance(size, int) else size


def _to_size(shape: tuple[int, int]) -> dict[str, int]:
    return {"height": shape[0], "width": shape[1]}

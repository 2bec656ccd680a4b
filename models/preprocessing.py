"""Image preprocessing: resizing, cropping and normalization, stored with a checkpoint in `preprocessor_config.json`."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from foundation.files.safe_json import read_json

PREPROCESSOR_FILE = "preprocessor_config.json"
NESTED_FILE = "processor_config.json"  # transformers 5 writes the same fields here, under `image_processor`
LARGEST_SIDE = 16_384  # pixels
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers of the filters, which the file stores
_HALVES = [0.5, 0.5, 0.5]  # mean and standard deviation of the class of NaFlex processors
_NAFLEX_PATCH_SIZE, NAFLEX_PATCHES = 16, 256  # of that class
_NAFLEX_PROCESSOR = re.compile(r"Siglip2ImageProcessor(Fast|Pil)?")
_SUPPORTED_PROCESSOR = re.compile(r"(CLIP|Siglip)(ImageProcessor|FeatureExtractor)(Fast|Pil)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize to `size`, crop the center to `crop`, multiply by `rescale`, subtract `mean`, divide by `std`.

    Raises `ValueError` if the resulting images would differ in size.

    size: (height, width), which does not keep the aspect ratio, or the length of the shortest edge, or None for no
        resizing.
    crop: (height, width) of the crop at the center, or None.
    resample: filter of the resizing.
    rescale: factor of the pixels.
    mean, std: mean and standard deviation of each channel.
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
            raise ValueError(f"size {self.size} and crop {self.crop} must be integers from 1 to {LARGEST_SIDE:,}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
                raise ValueError(f"{name} {values} must be one finite number per color channel")
        if not min(self.std) > 0:
            raise ValueError(f"std {self.std} must be positive")
        if not (isinstance(self.rescale, float | int) and math.isfinite(self.rescale) and self.rescale > 0):
            raise ValueError(f"rescale_factor {self.rescale!r} must be positive and finite")
        if self.resample not in range(6):
            raise ValueError(f"resample {self.resample!r} must be the number of a Pillow filter, 0 to 5")
        if self.crop is None and not isinstance(self.size, tuple):
            raise ValueError(
                f"size {self.size} without a center crop gives images of different sizes. Set a crop, or a size with "
                "height and width."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """The (height, width) of every preprocessed image."""
        return self.size if self.crop is None else self.crop

    def differences(self, other: Preprocessing) -> list[str]:
        """Return in words the settings of `other` that differ."""
        pairs = {
            field.name: (getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self)
        }
        return [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]

    def for_shape(self, shape: tuple[int, int]) -> Preprocessing:
        """Return the same preprocessing for images of another (height, width); a crop keeps its share of the image."""
        if self.crop is None:
            return dataclasses.replace(self, size=shape)
        height, width = (new / old for new, old in zip(shape, self.crop, strict=True))
        if isinstance(self.size, int):
            return dataclasses.replace(self, size=round(self.size * max(height, width)), crop=shape)
        size = None if self.size is None else (round(self.size[0] * height), round(self.size[1] * width))
        return dataclasses.replace(self, size=size, crop=shape)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Return pixels `[..., 3]` uint8 rescaled and normalized, in float32."""
        std = np.asarray(self.std, np.float64)
        return images.astype(jnp.float32) * np.float32(self.rescale / std) - np.float32(self.mean / std)

    def to_json(self, *, patch_size: int | None = None, max_patches: int | None = None) -> dict[str, Any]:
        """Return the fields of a `SiglipImageProcessor`, or of a `CLIPImageProcessor` if images are cropped.

        With `max_patches` they are those of a `Siglip2ImageProcessor` for patches of `patch_size` pixels, in which the
        filter and the statistics are kept, and the size follows from each image.
        """
        if max_patches is not None:
            return {
                "image_processor_type": "Siglip2ImageProcessor",
                "do_convert_rgb": True,
                "do_resize": True,
                "resample": self.resample,
                **self._statistics(),
                "patch_size": patch_size,
                "max_num_patches": max_patches,
            }
        fields: dict[str, Any] = {
            "image_processor_type": "SiglipImageProcessor" if self.crop is None else "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": self.size is not None,
        }
        if isinstance(self.size, int):
            fields["size"] = {"shortest_edge": self.size}
        elif self.size is not None:
            fields["size"] = _size_fields(self.size)
        fields["resample"] = self.resample
        if self.crop is not None:
            fields |= {"do_center_crop": True, "crop_size": _size_fields(self.crop)}
        return fields | self._statistics()

    def _statistics(self) -> dict[str, Any]:
        return {
            "do_rescale": True,
            "rescale_factor": self.rescale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


class _Processor(NamedTuple):
    """An image processor's file, and the fields in it that are set."""

    path: pathlib.Path
    fields: Mapping[str, Any]


def load_preprocessing(folder: str | os.PathLike) -> Preprocessing:
    """Read the image processor of a SigLIP, a SigLIP 2 of fixed resolution, or a CLIP.

    Raises `FileNotFoundError` if the folder has none, and `ValueError` for preprocessing that is not supported.
    """
    path, fields = _read_processor(pathlib.Path(folder))
    kind = fields.get("image_processor_type") or fields.get("feature_extractor_type")
    if kind is not None and not (isinstance(kind, str) and _SUPPORTED_PROCESSOR.fullmatch(kind)):
        raise ValueError(
            f"{path}: image processor {kind} is not supported. Supported: SiglipImageProcessor, CLIPImageProcessor."
        )
    if fields.get("do_pad"):
        raise ValueError(f"{path}: do_pad is not supported. Supported: resizing and a center crop.")
    try:
        return Preprocessing(
            size=_read_size(fields["size"]) if fields.get("do_resize", True) else None,
            crop=_read_crop(fields["crop_size"]) if fields.get("do_center_crop", "crop_size" in fields) else None,
            resample=fields.get("resample", BICUBIC),
            **_read_statistics(fields),
        )
    except KeyError as error:
        raise ValueError(f"{path} lacks the field {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


class NaflexPreprocessing(NamedTuple):
    """The preprocessing of images of any aspect ratio: the largest number of their patches, and the rest.

    `square` has the filter and the statistics, and the size of images that are resized to a square instead.
    """

    max_patches: int
    square: Preprocessing


def load_naflex_preprocessing(
    folder: str | os.PathLike, *, shape: tuple[int, int], patch_size: int
) -> NaflexPreprocessing:
    """Read the image processor of a SigLIP 2 of variable resolution, or the defaults of its class without a file.

    `shape` is the (height, width) of the square images. Raises `ValueError` for preprocessing that is not supported and
    for patches of another size than `patch_size` pixels.
    """
    try:
        path, fields = _read_processor(pathlib.Path(folder))
    except FileNotFoundError:
        path, fields = pathlib.Path(folder), {"patch_size": patch_size}
    kind = fields.get("image_processor_type")
    if kind is not None and not (isinstance(kind, str) and _NAFLEX_PROCESSOR.fullmatch(kind)):
        raise ValueError(
            f"{path}: image processor {kind} cannot prepare images for model_type siglip2, which takes patches. Use "
            "the file of the checkpoint, with Siglip2ImageProcessor."
        )
    if not fields.get("do_resize", True):
        raise ValueError(f"{path}: do_resize is False; only images that are resized to whole patches are supported")
    cut, most = fields.get("patch_size", _NAFLEX_PATCH_SIZE), fields.get("max_num_patches", NAFLEX_PATCHES)
    if cut != patch_size:
        raise ValueError(f"{path}: patch_size is {cut!r}, but the image tower takes patches of {patch_size} pixels")
    if type(most) is not int or most < 1:
        raise ValueError(f"{path}: max_num_patches {most!r} must be a positive whole number")
    fields = {"image_mean": _HALVES, "image_std": _HALVES} | fields
    try:
        square = Preprocessing(size=shape, resample=fields.get("resample", BILINEAR), **_read_statistics(fields))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return NaflexPreprocessing(most, square)


def _read_statistics(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Preprocessing` that change the values of pixels."""
    rescaled, normalized = (fields.get(f"do_{name}", True) for name in ("rescale", "normalize"))
    return {
        "rescale": fields.get("rescale_factor", 1 / 255) if rescaled else 1.0,
        "mean": tuple(fields["image_mean"]) if normalized else (0.0, 0.0, 0.0),
        "std": tuple(fields["image_std"]) if normalized else (1.0, 1.0, 1.0),
    }


def _read_processor(folder: pathlib.Path) -> _Processor:
    """Return the image processor of a folder, from the file that transformers would read."""
    for name in (NESTED_FILE, PREPROCESSOR_FILE):
        path = folder / name
        if not path.is_file():
            continue
        fields = read_json(path)
        fields = fields.get("image_processor") if name == NESTED_FILE else fields
        if fields and not isinstance(fields, Mapping):
            raise ValueError(f"{path}: image_processor must be a JSON object")
        if fields:
            return _Processor(path, {name: value for name, value in fields.items() if value is not None})
    raise FileNotFoundError(
        f"{folder} is not a checkpoint: it has no {PREPROCESSOR_FILE}. `launch.py export` writes a checkpoint."
    )


def _read_size(size: int | Mapping[str, int]) -> int | tuple[int, int]:
    """Return the length of the shortest edge (a plain number in older files), or (height, width)."""
    if isinstance(size, int):
        return size
    given = {name: length for name, length in size.items() if length is not None}
    if set(given) == {"shortest_edge"}:
        return given["shortest_edge"]
    if set(given) == {"height", "width"}:
        return given["height"], given["width"]
    raise ValueError(f"size {given} is not supported. Supported: height and width, or shortest_edge.")


def _read_crop(size: int | Mapping[str, int]) -> tuple[int, int]:
    """Return (height, width); a plain number, in older files, is both."""
    size = _read_size(size)
    return (size, size) if isinstance(size, int) else size


def _size_fields(shape: tuple[int, int]) -> dict[str, int]:
    return {"height": shape[0], "width": shape[1]}

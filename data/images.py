"""From encoded images to arrays `[size, size, 3]` uint8: decoding, training augmentation, evaluation resizing."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
from PIL import Image

BICUBIC = int(Image.Resampling.BICUBIC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training does to an image before it is resized.

    `crop_area` is the range of the share of the image that is kept and `crop_aspect` that of the crop's width over
    height (1, 1 keeps squares); `flip` is the probability of a mirror image; `color_jitter` the largest relative
    change of brightness, contrast and saturation; `grayscale` the probability of dropping the colour.
    `keep_patches` is the share of its patches that the image tower sees, chosen at random (FLIP, arXiv 2212.00794).
    """

    crop_area: tuple[float, float] = (0.5, 1.0)
    crop_aspect: tuple[float, float] = (0.75, 1.333)
    flip: float = 0.0
    color_jitter: float = 0.0
    grayscale: float = 0.0
    keep_patches: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"augmentation.crop_area {self.crop_area} is no range within (0, 1]")
        low, high = self.crop_aspect
        if not 0 < low <= high:
            raise ValueError(f"augmentation.crop_aspect {self.crop_aspect} is no range of positive numbers")
        for name in ("flip", "color_jitter", "grayscale"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name} {getattr(self, name)} is not within [0, 1]")
        if not 0 < self.keep_patches <= 1:
            raise ValueError(f"augmentation.keep_patches {self.keep_patches} is not within (0, 1]")


def decode(encoded: bytes, key: str) -> Image.Image:
    """Returns the RGB image, transparency on white; raises `ValueError` naming `key` for a broken one."""
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
        if image.mode == "RGB":
            return image
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{key}: the picture cannot be decoded ({error}); replace or remove it") from error


def resize(image: Image.Image, size: int, resample: int = BICUBIC) -> np.ndarray:
    """Squeezes an image to `[size, size, 3]` uint8, as the SigLIP image processor does."""
    return np.asarray(image.resize((size, size), resample))


def augment(image: Image.Image, size: int, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Returns a random view of `image`, `[size, size, 3]` uint8."""
    view = np.asarray(image.resize((size, size), BICUBIC, box=_random_crop(image.size, settings, rng)))
    if rng.random() < settings.flip:
        view = view[:, ::-1]
    if settings.color_jitter or settings.grayscale:
        view = _recolor(view, settings, rng)
    return view


def count_kept_patches(num_patches: int, share: float) -> int:
    """Returns how many patches a share of them is, at least one."""
    return max(1, round(num_patches * share))


def choose_patches(num_patches: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the sorted numbers of a random share of the patches, at least one, `[kept]` int32."""
    kept = count_kept_patches(num_patches, share)
    return np.sort(rng.permutation(num_patches)[:kept]).astype(np.int32)


def _random_crop(
    shape: tuple[int, int], settings: Augmentation, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    width, height = shape
    area = width * height * rng.uniform(*settings.crop_area)
    aspect = math.exp(rng.uniform(math.log(settings.crop_aspect[0]), math.log(settings.crop_aspect[1])))
    crop_width, crop_height = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height


def _recolor(view: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast, saturation = rng.uniform(1 - settings.color_jitter, 1 + settings.color_jitter, 3)
    if rng.random() < settings.grayscale:
        saturation = 0.0
    pixels = view.astype(np.float32)
    gray = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    pixels = saturation * pixels + (1 - saturation) * gray[..., None]
    mean = gray.mean()
    pixels = (contrast * (pixels - mean) + mean) * brightness
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

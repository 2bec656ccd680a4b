"""Random views of training images, and the random subset of patches that the image tower sees."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from data.pipeline.image_ops import EncodedImage

if TYPE_CHECKING:
    import cykooz_resizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augmentation settings; the crop is resized to the image size of the model.

    crop_area: range of the crop's area as a fraction of the image.
    crop_aspect: range of the crop's width divided by its height (1, 1 for squares).
    flip: probability of a horizontal flip.
    color_jitter: largest relative change of brightness, contrast and saturation.
    grayscale: probability of removing the colour.
    keep_patches: fraction of patches that the image tower sees, chosen at random (FLIP, arXiv 2212.00794).
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
            raise ValueError(
                f"augmentation.crop_area {self.crop_area} is not a range within (0, 1]. Use, for example, (0.5, 1.0)."
            )
        low, high = self.crop_aspect
        if not 0 < low <= high:
            raise ValueError(
                f"augmentation.crop_aspect {self.crop_aspect} is not a range of positive numbers. Use, for example, "
                "(0.75, 1.333)."
            )
        for name in ("flip", "color_jitter", "grayscale"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name} {getattr(self, name)} is not within [0, 1]")
        if not 0 < self.keep_patches <= 1:
            raise ValueError(f"augmentation.keep_patches {self.keep_patches} is not within (0, 1]")


class Box(NamedTuple):
    """A rectangle within an image, in pixels."""

    left: float
    top: float
    width: float
    height: float


def augment(
    image: EncodedImage, shape: tuple[int, int], *, settings: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Return a random view of `image` as `[*shape, 3]` uint8; raises `BadRecord` for a corrupt image.

    A JPEG much larger than the view is decoded at a reduced scale.
    """
    width, height = image.size
    crop = random_crop(image.size, settings=settings, rng=rng)
    across, down = shape[1] / crop.width, shape[0] / crop.height
    pixels = image.decode(at_least=(width * across, height * down))
    across, down = pixels.width / width, pixels.height / height
    scaled = Box(crop.left * across, crop.top * down, crop.width * across, crop.height * down)
    view = resize_box(pixels, scaled, shape=shape)
    if rng.random() < settings.flip:
        view = view[:, ::-1]
    if settings.color_jitter or settings.grayscale:
        view = _jitter_colors(view, settings, rng)
    return view


def random_crop(size: tuple[int, int], *, settings: Augmentation, rng: np.random.Generator) -> Box:
    """Return a random crop of an image of `size` (width, height)."""
    width, height = size
    area = width * height * rng.uniform(*settings.crop_area)
    aspect = math.exp(rng.uniform(math.log(settings.crop_aspect[0]), math.log(settings.crop_aspect[1])))
    crop_width, crop_height = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    return Box(rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height), crop_width, crop_height)


def resize_box(image: Image.Image, box: Box, *, shape: tuple[int, int]) -> np.ndarray:
    """Return a box of an RGB image, resized to `[*shape, 3]` uint8 by antialiased bicubic interpolation."""
    import cykooz_resizer

    left, top, width, height = box
    left, top = min(max(left, 0.0), image.width - 1e-3), min(max(top, 0.0), image.height - 1e-3)
    width, height = min(width, image.width - left), min(height, image.height - top)
    view = Image.new("RGB", (shape[1], shape[0]))
    options = cykooz_resizer.ResizeOptions(
        cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom),  # Pillow's bicubic
        crop_box=cykooz_resizer.CropBox(left, top, width, height),
    )
    _resizer().resize_pil(image, view, options)
    return np.asarray(view)


_thread_state = threading.local()


def _resizer() -> cykooz_resizer.Resizer:
    """Return the resizer of this thread; each has its own buffers."""
    if not hasattr(_thread_state, "resizer"):
        import cykooz_resizer

        _thread_state.resizer = cykooz_resizer.Resizer()
    return _thread_state.resizer


def count_kept_patches(num_patches: int, fraction: float) -> int:
    """Return the number of patches to keep, at least one."""
    return max(1, round(num_patches * fraction))


def choose_patches(num_patches: int, fraction: float, *, rng: np.random.Generator) -> np.ndarray:
    """Return the sorted indices of a random subset of the patches, `[kept]` int32."""
    kept = count_kept_patches(num_patches, fraction)
    return np.sort(rng.permutation(num_patches)[:kept]).astype(np.int32)


def _jitter_colors(view: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast, saturation = rng.uniform(1 - settings.color_jitter, 1 + settings.color_jitter, 3)
    if rng.random() < settings.grayscale:
        saturation = 0.0
    pixels = view.astype(np.float32)
    gray = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    pixels = saturation * pixels + (1 - saturation) * gray[..., None]
    mean = gray.mean()
    pixels = (contrast * (pixels - mean) + mean) * brightness
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

"""Random views of training images, and the patches of them that the image tower sees."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from data.pipeline.image_ops import EncodedImage

if TYPE_CHECKING:
    import cykooz_resizer


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


def augment(picture: EncodedImage, shape: tuple[int, int], settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Returns a random view of `picture`, `[*shape, 3]` uint8; raises `BadRecord` for a broken one.

    A JPEG much larger than the view is decoded at a reduced scale.
    """
    width, height = picture.size
    left, top, crop_width, crop_height = random_crop(picture.size, settings, rng)
    across, down = shape[1] / crop_width, shape[0] / crop_height
    image = picture.decode(at_least=(width * across, height * down))
    across, down = image.width / width, image.height / height
    view = resize_box(image, (left * across, top * down, crop_width * across, crop_height * down), shape)
    if rng.random() < settings.flip:
        view = view[:, ::-1]
    if settings.color_jitter or settings.grayscale:
        view = _recolor(view, settings, rng)
    return view


def random_crop(
    shape: tuple[int, int], settings: Augmentation, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Returns left, top, width and height of a random part of an image of (width, height), in pixels."""
    width, height = shape
    area = width * height * rng.uniform(*settings.crop_area)
    aspect = math.exp(rng.uniform(math.log(settings.crop_aspect[0]), math.log(settings.crop_aspect[1])))
    crop_width, crop_height = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    return rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height), crop_width, crop_height


def resize_box(image: Image.Image, box: tuple[float, float, float, float], shape: tuple[int, int]) -> np.ndarray:
    """Returns a box (left, top, width, height) of an RGB image as `[*shape, 3]` uint8, bicubic and antialiased."""
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


_of_thread = threading.local()


def _resizer() -> cykooz_resizer.Resizer:
    """Returns this thread's resizer: each has buffers of its own."""
    if not hasattr(_of_thread, "resizer"):
        import cykooz_resizer

        _of_thread.resizer = cykooz_resizer.Resizer()
    return _of_thread.resizer


def count_kept_patches(num_patches: int, share: float) -> int:
    """Returns how many patches a share of them is, at least one."""
    return max(1, round(num_patches * share))


def choose_patches(num_patches: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the sorted numbers of a random share of the patches, at least one, `[kept]` int32."""
    kept = count_kept_patches(num_patches, share)
    return np.sort(rng.permutation(num_patches)[:kept]).astype(np.int32)


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

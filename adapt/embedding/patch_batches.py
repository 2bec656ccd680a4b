"""Batches of images of any aspect ratio (NaFlex): images with similar numbers of patches share a batch.

A batch has one of a few numbers of patch slots per image, and as many rows as the budget of patches allows, so that
few programs are compiled. Images are sorted by their numbers of patches within a window of a few batches; embeddings
come in the order of the images.
"""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from data.pipeline.image_ops import resize_and_crop
from models.naflex import PatchedImages, find_grid
from models.preprocessing import Preprocessing

_SLOT_SHARES = (2, 4, 6, 7, 8)  # eighths of the largest number of patches
_WINDOW_BATCHES = 4


class ImagePatches(NamedTuple):
    """The patches `[rows * columns, patch_size * patch_size * 3]` uint8 of an image, and its (rows, columns)."""

    patches: np.ndarray
    grid: tuple[int, int]


class BatchPlan(NamedTuple):
    """The images of a batch by their places in the window, and the rows and slots of its arrays."""

    places: np.ndarray
    rows: int
    slots: int


def cut_patches(image: Image.Image, *, patch_size: int, max_patches: int, preprocessing: Preprocessing) -> ImagePatches:
    """Return an RGB image resized to at most `max_patches` whole patches by the filter of `preprocessing`, and cut."""
    rows, columns = find_grid(image.height, image.width, patch_size=patch_size, max_patches=max_patches)
    size = (rows * patch_size, columns * patch_size)
    pixels = resize_and_crop(image, size=size, crop=None, resample=preprocessing.resample)
    cut = pixels.reshape(rows, patch_size, columns, patch_size, 3).transpose(0, 2, 1, 3, 4)
    return ImagePatches(cut.reshape(rows * columns, -1), (rows, columns))


def plan_batches(counts: Sequence[int], *, rows: int, max_patches: int, devices: int = 1) -> list[BatchPlan]:
    """Group images with `counts` patches into batches of at most `rows * max_patches` slots per device.

    A batch has the fewest slots per image that hold its images, of a few shares of `max_patches`, and the same number
    of rows on every one of the `devices`.
    """
    sizes = sorted({-(-max_patches * share // _SLOT_SHARES[-1]) for share in _SLOT_SHARES})
    order, plans = np.argsort(-np.asarray(counts), kind="stable"), []
    while len(order):
        slots = next(size for size in sizes if size >= counts[order[0]])
        size = devices * (rows * max_patches // slots)
        plans.append(BatchPlan(order[:size], size, slots))
        order = order[size:]
    return plans


def stack_images(images: Sequence[ImagePatches], *, rows: int, slots: int) -> PatchedImages:
    """Return a batch of images; slots behind an image are black, and so are rows behind the images, of one patch."""
    patches = np.zeros((rows, slots, images[0].patches.shape[1]), np.uint8)
    grids = np.ones((rows, 2), np.int32)
    for row, image in enumerate(images):
        patches[row, : len(image.patches)], grids[row] = image
    return PatchedImages(patches, grids)


def embed_in_order(
    prepare: Callable[[int], ImagePatches],
    embed: Callable[[PatchedImages], jax.Array],
    numbers: range,
    *,
    rows: int,
    max_patches: int,
    devices: int,
    threads: concurrent.futures.Executor,
) -> Iterator[np.ndarray]:
    """Yield the embeddings of the images `prepare(number)` in the order of `numbers`, `[images, dim]` float32.

    `embed` computes a batch asynchronously, `rows` is the number of images of `max_patches` patches that a device
    embeds at a time. At most two windows of images are in memory.
    """
    window = _WINDOW_BATCHES * rows * devices
    windows = (numbers[start : start + window] for start in range(0, len(numbers), window))
    running: deque[tuple[jax.Array, np.ndarray, _Window]] = deque()

    def submit() -> list[concurrent.futures.Future[ImagePatches]] | None:
        batch = next(windows, None)
        return None if batch is None else [threads.submit(prepare, number) for number in batch]

    following = submit()
    while following is not None:
        images = [future.result() for future in following]
        following = submit()
        plans = plan_batches(
            [len(image.patches) for image in images], rows=rows, max_patches=max_patches, devices=devices
        )
        results = _Window(len(images))
        for plan in plans:
            batch = stack_images([images[place] for place in plan.places], rows=plan.rows, slots=plan.slots)
            running.append((embed(batch), plan.places, results))
            if len(running) > 1:
                yield from _collect(running)
    while running:
        yield from _collect(running)


class _Window:
    """The embeddings of the images of a window; `missing` is the number of those that are not computed yet."""

    def __init__(self, count: int):
        self.missing = count
        self.rows: list[np.ndarray | None] = [None] * count


def _collect(running: deque[tuple[jax.Array, np.ndarray, _Window]]) -> Iterator[np.ndarray]:
    """Wait for the oldest batch; yield the embeddings of its window if they are complete."""
    embeddings, places, window = running.popleft()
    for place, row in zip(places, np.asarray(embeddings), strict=False):  # rows of padding have no place
        window.rows[place] = row
    window.missing -= len(places)
    if not window.missing:
        yield np.stack(window.rows)

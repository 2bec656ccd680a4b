"""Features of an exported checkpoint: images and texts in, raw embeddings out, kept on disk."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import jax
import numpy as np
from PIL import Image

from data.fingerprint import fingerprint
from data.images import resize_and_crop
from models.huggingface import WEIGHTS_FILE, load_checkpoint
from models.preprocessing import Preprocessing
from models.towers import create_model

CACHE_VERSION = 1
_BATCH = 256


class Encoder:
    """An exported checkpoint, opened to embed. Raises as `load_checkpoint` does."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        checkpoint = load_checkpoint(folder)
        model, self._preprocessing = create_model(checkpoint.settings), checkpoint.preprocessing
        self.tokenizer = checkpoint.tokenizer
        parameters = jax.device_put(checkpoint.parameters)
        self._embed_images = jax.jit(
            lambda images: model.embed_images(parameters, self._preprocessing.normalize(images))
        )
        self._embed_texts = jax.jit(lambda tokens: model.embed_texts(parameters, tokens))
        weights = (self.folder / WEIGHTS_FILE).read_bytes()
        self.fingerprint = fingerprint(weights, repr(checkpoint.settings), repr(self._preprocessing))

    def embed_images(self, image: Callable[[int], Image.Image], count: int) -> np.ndarray:
        """Returns the embeddings of `image(0)` … `image(count − 1)`, `[count, dim]` float32."""

        def batch(start: int) -> np.ndarray:
            return np.stack(
                [to_pixels(image(index), self._preprocessing) for index in range(start, min(start + _BATCH, count))]
            )

        return _in_batches(self._embed_images, batch, count)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, `[texts, dim]` float32."""
        return _in_batches(self._embed_texts, lambda start: self.tokenizer(texts[start : start + _BATCH]), len(texts))

    def embed_classes(self, class_names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Returns unit class embeddings `[classes, dim]`: each prompt normalised, their mean normalised again."""
        prompts = [template.format(name) for name in class_names for template in templates]
        embeddings = _unit(self.embed_texts(prompts)).reshape(len(class_names), len(templates), -1)
        return _unit(embeddings.mean(axis=1))


def to_pixels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Returns an RGB image as `preprocessing` resizes and crops it, `[height, width, 3]` uint8."""
    size = (image.height, image.width) if preprocessing.size is None else preprocessing.size
    return resize_and_crop(image, size=size, crop=preprocessing.crop, resample=preprocessing.resample)


def cached(folder: str | os.PathLike, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the array stored under `key` in `folder`, or computes and stores it.

    `key` must name everything the array depends on; a file that cannot be read is made again.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    path = pathlib.Path(folder) / f"{key}-v{CACHE_VERSION}.safetensors"
    try:
        return load_file(path)["embeddings"]
    except (FileNotFoundError, SafetensorError, KeyError):
        pass
    array = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        partial = pathlib.Path(temporary) / path.name
        save_file({"embeddings": array}, partial)
        os.replace(partial, path)
    return array


def _in_batches(embed: Callable[[np.ndarray], jax.Array], batch: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """Embeds `count` rows in batches of one shape: the last is padded, so that nothing is compiled twice."""
    rows = []
    for start in range(0, count, _BATCH):
        inputs = batch(start)
        padding = [(0, _BATCH - len(inputs))] + [(0, 0)] * (inputs.ndim - 1)
        rows.append(np.asarray(embed(np.pad(inputs, padding)))[: len(inputs)])
    return np.concatenate(rows)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)

"""Features of a checkpoint: images and texts in, raw embeddings out, kept on disk."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from data.io.fingerprint import fingerprint, fingerprint_files
from data.pipeline.image_ops import resize_and_crop
from data.sources.base import BadRecord
from models.checkpoints.io import describe_checkpoint
from models.config import ModelSettings
from models.preprocessing import Preprocessing
from models.text.tokenizer import Tokenizer
from models.towers import create_model

_BATCH = 256  # rows per device, however many there are: another shape would round otherwise
_ACTIVATIONS = {"cpu": 25e6}  # bytes of an MLP's activations per device, which then stay in a processor's caches
_ACTIVATIONS_ELSEWHERE = 2e9
_AHEAD = 2  # batches
_THREADS = max(2, os.cpu_count() or 1)


class Encoder:
    """A checkpoint, opened to embed on all devices of this host. Raises as `models.checkpoint.open_checkpoint` does.

    `dtype` is that of the parameters and of the computation; embeddings come in float32. `tokenizer` names another than
    the checkpoint's own; with `image_size` images are embedded at that size. The weights are read when they are needed
    first: where all embeddings are kept, never.
    """

    def __init__(
        self,
        name: str | os.PathLike,
        *,
        dtype: str = "float32",
        image_size: int | tuple[int, int] | None = None,
        tokenizer: str | None = None,
    ):
        found = describe_checkpoint(name, image_size=image_size)
        self.name, self.settings = os.fspath(name), dataclasses.replace(found.settings, dtype=dtype)
        self._preprocessing = found.preprocessing
        self._open_tokenizer = lambda: found.open_tokenizer(tokenizer)
        devices = np.array(jax.local_devices())
        mesh = Mesh(devices, ("data",))
        copied, self._rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
        self._read = lambda: found.read(dtype=dtype, place=lambda path, array: jax.device_put(array, copied))
        self._embed_images, self._embed_texts = _programs(self.settings, self._preprocessing, mesh)
        self._files = found.files.paths
        self.batch_size = self._choose_batch_size(devices.size)

    @functools.cached_property
    def _parameters(self) -> dict[str, Any]:
        return self._read()

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, or the one that was named; raises as `load_tokenizer` does at its first use."""
        return self._open_tokenizer()

    @functools.cached_property
    def image_fingerprint(self) -> str:
        """A hash of all that embeddings of images depend on: weights, settings, how pixels enter."""
        settings = dataclasses.replace(self.settings, remat="none", scan_unroll=1)
        return fingerprint(fingerprint_files(self._files), repr(settings), repr(self._preprocessing))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all that embeddings depend on: those of images, and how texts enter."""
        return fingerprint(self.image_fingerprint, self.tokenizer.fingerprint)

    @property
    def dim(self) -> int:
        """The number of dimensions of an embedding."""
        return self.settings.dim

    def _choose_batch_size(self, devices: int) -> int:
        vision = self.settings.vision
        row = vision.num_patches * vision.mlp_width * np.dtype(jax.numpy.dtype(self.settings.dtype)).itemsize
        share = _ACTIVATIONS.get(jax.default_backend(), _ACTIVATIONS_ELSEWHERE) // row
        return devices * min(2 ** int(np.log2(max(share, 1))), _BATCH)

    def embed_images(self, image: Callable[[int], Image.Image], count: int) -> np.ndarray:
        """Returns the embeddings of `image(0)` … `image(count − 1)`, `[count, dim]` float32."""
        return _joined(self.iterate_images(image, range(count)), self.dim)

    def embed_pixels(self, pixels: np.ndarray) -> jax.Array:
        """Returns the embeddings of one batch of pixels `[rows, height, width, 3]` uint8, on their way."""
        return self._embed_images(self._parameters, jax.device_put(pixels, self._rows))

    def embed_tokens(self, tokens: np.ndarray) -> jax.Array:
        """Returns the embeddings of one batch of token ids `[rows, length]`, on their way."""
        return self._embed_texts(self._parameters, jax.device_put(tokens, self._rows))

    def iterate_images(
        self, image: Callable[[int], Image.Image], numbers: range, *, bad: dict[int, BadRecord] | None = None
    ) -> Iterator[np.ndarray]:
        """Yields the embeddings of `image(number)` batch by batch, `[rows, dim]` float32.

        Pictures are made in threads, ahead of their turn. Where one raises `BadRecord`, that is put into `bad`, and its
        row is that of a black picture; without `bad` it is raised.
        """

        def pixels(number: int) -> np.ndarray:
            try:
                return to_pixels(image(number), self._preprocessing)
            except BadRecord as error:
                if bad is None:
                    raise
                bad[number] = error
                return np.zeros((*self._preprocessing.shape, 3), np.uint8)

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:

            def make(batch: range) -> Callable[[], np.ndarray]:
                made = [threads.submit(pixels, number) for number in batch]
                return lambda: np.stack([picture.result() for picture in made])

            yield from self._in_batches(self.embed_pixels, make, numbers)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, `[texts, dim]` float32."""
        return _joined(self.iterate_texts(texts, range(len(texts))), self.dim)

    def iterate_texts(self, texts: Sequence[str], numbers: range) -> Iterator[np.ndarray]:
        """Yields the embeddings of `texts[number]` batch by batch, `[rows, dim]` float32.

        Raises `ValueError` for a text with a token that the text tower has no embedding for.
        """

        def make(batch: range) -> Callable[[], np.ndarray]:
            return lambda: self._tokens([texts[number] for number in batch])

        yield from self._in_batches(self.embed_tokens, make, numbers)

    def _tokens(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self.tokenizer(texts)
        rows = np.nonzero((tokens >= self.settings.text.vocab_size).any(axis=1))[0]
        if len(rows):
            raise ValueError(
                f"{texts[rows[0]]!r} has a token that the text tower of {self.name} does not know; its tokenizer has "
                f"more than its {self.settings.text.vocab_size:,} ids"
            )
        text = self.settings.text
        if text.pooling == "end":
            end_id = self.tokenizer.end_id if text.end_id is None else text.end_id
            ended = (tokens == end_id).any(axis=1)
            if text.end_id is None:  # the tower takes the largest for it
                ended &= tokens.max(axis=1) == end_id
            rows = np.nonzero(~ended)[0]
            if len(rows):
                raise ValueError(
                    f"{texts[rows[0]]!r} has no end token {end_id}, at which the text tower of {self.name} reads; its "
                    "tokenizer is another than the tower was trained with"
                )
        return tokens

    def _in_batches(
        self,
        embed: Callable[[np.ndarray], jax.Array],
        make: Callable[[range], Callable[[], np.ndarray]],
        numbers: range,
    ) -> Iterator[np.ndarray]:
        """Embeds in batches of one shape: the last is padded, so that nothing is compiled twice.

        Where there are fewer rows than a device's share of a batch, that is the next power of two. Shapes on a device,
        and so the bits of an embedding, do not depend on the number of devices.
        """
        devices = self._rows.mesh.size
        share = self.batch_size // devices
        while share % 2 == 0 and share // 2 >= max(len(numbers), 1):
            share //= 2
        size = share * devices
        batches = (numbers[start : start + size] for start in range(0, len(numbers), size))
        coming = deque(make(batch) for batch in itertools.islice(batches, _AHEAD))
        running: deque[tuple[jax.Array, int]] = deque()
        while coming:
            inputs = coming.popleft()()
            coming += [make(batch) for batch in itertools.islice(batches, 1)]
            rows = len(inputs)
            padding = [(0, size - rows)] + [(0, 0)] * (inputs.ndim - 1)
            running.append((embed(np.pad(inputs, padding)), rows))
            if len(running) > 1:
                yield _fetch(*running.popleft())
        while running:
            yield _fetch(*running.popleft())


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Returns the texts of all classes, those of a class one after another."""
    return [template.format(name) for name in class_names for template in templates]


def mean_of_prompts(embeddings: np.ndarray, templates: int) -> np.ndarray:
    """Returns unit class embeddings `[classes, dim]` of those of their prompts `[classes × templates, dim]`."""
    each = _unit(embeddings).reshape(len(embeddings) // templates, templates, -1)
    return _unit(each.mean(axis=1))


@functools.lru_cache(maxsize=4)
def _programs(settings: ModelSettings, preprocessing: Preprocessing, mesh: Mesh) -> tuple[Callable, Callable]:
    """Returns what embeds images and texts, `(parameters, batch) → [rows, dim]`; compiled once for many weights."""
    model, copied = create_model(settings, mesh=mesh if mesh.size > 1 else None), NamedSharding(mesh, PartitionSpec())

    def images(parameters: dict[str, Any], pixels: jax.Array) -> jax.Array:
        return model.embed_images(parameters, preprocessing.normalize(pixels)).astype("float32")

    def texts(parameters: dict[str, Any], tokens: jax.Array) -> jax.Array:
        return model.embed_texts(parameters, tokens).astype("float32")

    return jax.jit(images, out_shardings=copied), jax.jit(texts, out_shardings=copied)


def to_pixels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Returns an RGB image as `preprocessing` resizes and crops it, `[height, width, 3]` uint8."""
    size = (image.height, image.width) if preprocessing.size is None else preprocessing.size
    return resize_and_crop(image, size=size, crop=preprocessing.crop, resample=preprocessing.resample)


def _fetch(embeddings: jax.Array, rows: int) -> np.ndarray:
    return np.asarray(embeddings)[:rows]


def _joined(batches: Iterator[np.ndarray], dim: int) -> np.ndarray:
    rows = list(batches)
    return np.concatenate(rows) if rows else np.empty((0, dim), np.float32)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)

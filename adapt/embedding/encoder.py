"""Embeddings of images and texts by a checkpoint, on all devices of this host."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from adapt.embedding.patch_batches import ImagePatches, cut_patches, embed_in_order
from adapt.embedding.pictures import list_pictures, list_texts, open_picture
from adapt.embedding.programs import choose_rows, compile_programs
from adapt.embedding.recorded import check_features, check_recorded, open_recorded
from data.io.fingerprint import fingerprint, fingerprint_files
from data.pipeline.image_ops import DECODING, resize_and_crop
from data.sources.base import BadRecord
from models.checkpoints.consistency import images_only
from models.checkpoints.describe import describe_checkpoint
from models.config import FeatureHeadSettings
from models.naflex import PatchedImages
from models.preprocessing import Preprocessing
from models.text.tokenizer import Tokenizer

_BATCHES_AHEAD = 2  # prepared while the devices compute
_HEAD_ROWS = 64  # rows per device of a head, for any number of rows
_THREADS = max(2, os.cpu_count() or 1)


class Encoder:
    """A checkpoint that embeds images and texts on all devices of this host; embeddings are float32, not normalised.

    name: path or hub id of the checkpoint.
    dtype: of the parameters and of the computation.
    image_size: size at which images are embedded (default: the checkpoint's own).
    max_patches: largest number of patches of an image, for a SigLIP 2 that keeps the aspect ratio (NaFlex; default: the
        checkpoint's own). With `image_size` such a checkpoint squeezes all images to that size instead.
    tokenizer: path or hub id of another tokenizer than the checkpoint's own.
    canonicalize: how texts are prepared, one of `models.text.canonicalize.CANONICALIZATIONS` (default: as the
        checkpoint was trained, which is logged).

    A checkpoint of aligned features has heads that map the features of other encoders. Images and texts then go through
    the recorded encoder, which is opened at first use and must be the same as in training, and through the head.

    Weights are read at the first embedding, so with a complete cache never. Raises as
    `models.checkpoints.describe.describe_checkpoint` does, and `ValueError` for options without effect. A checkpoint
    without a text tower embeds images only: see `embeds_texts`.
    """

    def __init__(
        self,
        name: str | os.PathLike,
        *,
        dtype: str = "float32",
        image_size: int | tuple[int, int] | None = None,
        max_patches: int | None = None,
        tokenizer: str | None = None,
        canonicalize: str | None = None,
    ):
        if image_size is not None and max_patches is not None:
            raise ValueError(
                f"image_size {image_size} squeezes images to one size, and max_patches {max_patches} keeps their "
                "aspect ratio. Pass one of them."
            )
        checkpoint = describe_checkpoint(name, image_size=image_size, max_patches=max_patches)
        self.name, self.settings = os.fspath(name), dataclasses.replace(checkpoint.settings, dtype=dtype)
        given = {"image_size": image_size, "max_patches": max_patches}
        given |= {"tokenizer": tokenizer, "canonicalize": canonicalize}
        self.options = {"dtype": dtype} | {option: value for option, value in given.items() if value is not None}
        self._checkpoint = checkpoint
        self._has_image_head, self._has_text_head = (
            isinstance(side, FeatureHeadSettings) for side in (checkpoint.settings.vision, checkpoint.settings.text)
        )
        if self._has_text_head and (tokenizer or canonicalize):
            option = "--tokenizer" if tokenizer else "--canonicalize"
            raise ValueError(f"{name} maps text features, whose encoder has its own tokenizer. Omit {option}.")
        self._open_tokenizer = functools.partial(checkpoint.open_tokenizer, tokenizer, canonicalize=canonicalize)
        devices = np.array(jax.local_devices())
        mesh = Mesh(devices, ("data",))
        self._replicated, self._rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
        self._programs = compile_programs(self.settings, checkpoint.preprocessing, mesh)
        self.batch_size = devices.size * choose_rows(self.settings)

    @functools.cached_property
    def image_encoder(self) -> Encoder:
        """The encoder of the images: this one, or the recorded one whose features the image head maps.

        Raises `ValueError` if the recorded encoder is unknown, cannot be opened or has changed.
        """
        if not self._has_image_head:
            return self
        inner = open_recorded(self._checkpoint, "vision", Encoder)
        check_recorded(self._checkpoint, "vision", inner.image_fingerprint)
        return inner

    @functools.cached_property
    def text_encoder(self) -> Encoder:
        """The encoder of the texts: this one, or the recorded one whose features the text head maps."""
        if not self._has_text_head:
            return self
        inner = open_recorded(self._checkpoint, "text", Encoder)
        check_recorded(self._checkpoint, "text", inner.fingerprint)
        return inner

    @property
    def _preprocessing(self) -> Preprocessing:
        return self.image_encoder._checkpoint.preprocessing

    @property
    def max_patches(self) -> int | None:
        """The largest number of patches of an image with its aspect ratio (NaFlex); None for images of one size."""
        return getattr(self.settings.vision, "max_patches", None)

    @functools.cached_property
    def _parameters(self) -> dict[str, Any]:
        return self._checkpoint.read(
            dtype=self.settings.dtype, place=lambda path, array: jax.device_put(array, self._replicated)
        )

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, opened at first use; raises as `CheckpointDescription.open_tokenizer` does."""
        return self.text_encoder.tokenizer if self._has_text_head else self._open_tokenizer()

    @functools.cached_property
    def image_fingerprint(self) -> str:
        """A hash of everything that determines image embeddings: weights, settings, decoding and preprocessing."""
        return fingerprint(self.weights, *self._described())

    def _described(self) -> tuple[str, str]:
        """Return in words what determines image embeddings, apart from the weights."""
        if self._has_image_head:
            return self._settings_text, self.image_encoder.image_fingerprint
        most = "" if self.max_patches is None else f" max_patches={self.max_patches}"
        return self._settings_text, f"{DECODING} {self._preprocessing!r}{most}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of everything that determines embeddings: `image_fingerprint` and the tokenizer, if there is one.

        With an image head it does not depend on the images' encoder, which texts do not need.
        """
        if not self.embeds_texts:
            return self.image_fingerprint
        if self._has_text_head:
            return fingerprint(self.weights, self._settings_text, self.text_encoder.fingerprint)
        if self._has_image_head:
            return fingerprint(self.weights, self._settings_text, self.tokenizer.fingerprint)
        return fingerprint(self.image_fingerprint, self.tokenizer.fingerprint)

    @functools.cached_property
    def weights(self) -> str:
        """A hash of the files with the weights."""
        return fingerprint_files(self._checkpoint.files.paths)

    @property
    def head_fingerprint(self) -> str:
        """A hash of everything that determines embeddings of stored features."""
        return fingerprint(self.weights, self._settings_text)

    @property
    def _settings_text(self) -> str:
        return repr(dataclasses.replace(self.settings, remat="none", scan_unroll=1))

    @property
    def embeds_texts(self) -> bool:
        """False for a checkpoint that embeds images only: `embed_texts` and `tokenizer` then raise `ValueError`."""
        return self.settings.text is not None

    def check_embeds_texts(self) -> None:
        """Raise `ValueError` for a checkpoint that embeds images only."""
        if not self.embeds_texts:
            raise ValueError(images_only(self.name))

    @property
    def dim(self) -> int:
        """The number of dimensions of an embedding."""
        return self.settings.dim

    def embed_images(self, images: Iterable[Any] | Callable[[int], Any], count: int | None = None) -> np.ndarray:
        """Return the embeddings of images, `[images, dim]` float32.

        `images` are Pillow images, arrays `[height, width, 3]`, encoded bytes, open files or paths, or with `count` a
        function that returns such: then `images(0)` … `images(count − 1)` are embedded. Raises `ValueError` for a
        single path or image and for arrays of another kind (`adapt.embedding.pictures`), and `BadRecord` for a damaged
        image.
        """
        if callable(images):
            if count is None:
                raise ValueError("embed_images needs the number of images if it gets a function. Pass count.")
            if not isinstance(count, int | np.integer) or count < 0:
                raise ValueError(f"count is {count!r}; it must be the number of images, an integer from 0.")
            give, count = images, int(count)
        else:
            pictures = list_pictures(images)
            if count not in (None, len(pictures)):
                raise ValueError(f"count is {count}, but the list has {len(pictures)} images. Omit count.")
            give, count = pictures.__getitem__, len(pictures)

        def picture(number: int) -> Image.Image:
            return open_picture(give(number), number)

        return _concatenate(self.iterate_images(picture, range(count)), self.dim)

    def embed_pixels(self, pixels: np.ndarray) -> jax.Array:
        """Return the embeddings of a batch of pixels `[rows, height, width, 3]` uint8, computed asynchronously."""
        if self._has_image_head:
            raise ValueError(f"{self.name} maps features of pixels. Use embed_images.")
        if self.max_patches is not None:
            raise ValueError(f"{self.name} takes images of any aspect ratio. Use embed_images or embed_patches.")
        return self._programs.images(self._parameters, jax.device_put(pixels, self._rows))

    def embed_patches(self, images: PatchedImages) -> jax.Array:
        """Return the embeddings of a batch of images as uint8 patches (NaFlex), computed asynchronously."""
        if self.max_patches is None:
            raise ValueError(f"{self.name} takes images of one size. Use embed_images or embed_pixels.")
        return self._programs.patches(self._parameters, jax.device_put(images, self._rows))

    def embed_tokens(self, tokens: np.ndarray) -> jax.Array:
        """Return the embeddings of a batch of token ids `[rows, length]`, computed asynchronously."""
        if self._has_text_head:
            raise ValueError(f"{self.name} maps features of texts. Use embed_texts.")
        return self._programs.texts(self._parameters, jax.device_put(tokens, self._rows))

    def embed_features(self, *, images: np.ndarray | None = None, texts: np.ndarray | None = None) -> np.ndarray:
        """Return the embeddings `[rows, dim]` float32 of stored features `[rows, input_dim]`, of images or of texts.

        Raises `ValueError` unless one is given and has the dimensions and lengths that its head was trained on.
        """
        if (images is None) == (texts is None):
            raise ValueError("embed_features takes the features of images or those of texts. Pass one of them.")
        side, features = ("text", texts) if images is None else ("vision", images)
        features = np.asarray(features)
        check_features(self._checkpoint, side, features)
        return self._apply_head(side, features)

    def apply_image_head(self, features: np.ndarray) -> np.ndarray:
        """Return the embeddings `[rows, dim]` float32 of the features `[rows, input_dim]` of `image_encoder`."""
        return self._apply_head("vision", features)

    def _apply_head(self, side: str, features: np.ndarray) -> np.ndarray:
        """Return the embeddings of features, in batches of one shape."""
        program = self._programs.images if side == "vision" else self._programs.texts

        def embed(rows: np.ndarray) -> jax.Array:
            return program(self._parameters, jax.device_put(rows, self._rows))

        def prepare(batch: range) -> Callable[[], np.ndarray]:
            return lambda: np.asarray(features[batch.start : batch.stop], np.float32)

        size = self._rows.mesh.size * _HEAD_ROWS
        return _concatenate(self._in_batches(embed, prepare, range(len(features)), size=size), self.dim)

    def iterate_images(
        self, image: Callable[[int], Image.Image], numbers: range, *, bad: dict[int, BadRecord] | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the embeddings of `image(number)` for `numbers` batch by batch, `[rows, dim]` float32.

        `image` returns RGB images and is called in threads ahead of time. If it raises `BadRecord`, the error is stored
        in `bad` and the row is the embedding of a black image; without `bad`, the error is raised.
        """
        if self._has_image_head:
            for features in self.image_encoder.iterate_images(image, numbers, bad=bad):
                yield self.apply_image_head(features)
            return

        def prepared(number: int) -> np.ndarray | ImagePatches:
            try:
                return self._prepare(image(number))
            except BadRecord as error:
                if bad is None:
                    raise
                bad[number] = error
                return self._prepare(Image.new("RGB", (1, 1)))

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
            if self.max_patches is not None:
                size = {"rows": self._device_rows(len(numbers)), "max_patches": self.max_patches}
                size |= {"devices": self._rows.mesh.size}
                yield from embed_in_order(prepared, self.embed_patches, numbers, **size, threads=threads)
                return

            def prepare(batch: range) -> Callable[[], np.ndarray]:
                futures = [threads.submit(prepared, number) for number in batch]
                return lambda: np.stack([future.result() for future in futures])

            yield from self._in_batches(self.embed_pixels, prepare, numbers)

    def _prepare(self, image: Image.Image) -> np.ndarray | ImagePatches:
        """Return the pixels of an RGB image as the image tower takes them, uint8."""
        if self.max_patches is None:
            return to_pixels(image, self._preprocessing)
        size = {"patch_size": self.settings.vision.patch_size, "max_patches": self.max_patches}
        return cut_patches(image, **size, preprocessing=self._preprocessing)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of texts, `[texts, dim]` float32.

        Raises `ValueError` for a single text, and for a checkpoint that embeds images only.
        """
        self.check_embeds_texts()
        texts = list_texts(texts)
        return _concatenate(self.iterate_texts(texts, range(len(texts))), self.dim)

    def iterate_texts(self, texts: Sequence[str], numbers: range) -> Iterator[np.ndarray]:
        """Yield the embeddings of `texts[number]` for `numbers` batch by batch, `[rows, dim]` float32.

        Raises `ValueError` if the tokenizer does not match the text tower.
        """
        if self._has_text_head:
            for features in self.text_encoder.iterate_texts(texts, numbers):
                yield self._apply_head("text", features)
            return

        def prepare(batch: range) -> Callable[[], np.ndarray]:
            return lambda: self._tokens([texts[number] for number in batch])

        yield from self._in_batches(self.embed_tokens, prepare, numbers)

    def _tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Return the token ids `[texts, length]`; raise `ValueError` for ids that the text tower cannot embed."""
        tokens, tower = self.tokenizer(texts), self.settings.text
        unknown = np.nonzero((tokens >= tower.vocab_size).any(axis=1))[0]
        if len(unknown):
            raise ValueError(
                f"the tokenizer gives {texts[unknown[0]]!r} an id above {tower.vocab_size - 1:,}, but the text tower "
                f"of {self.name} has only {tower.vocab_size:,} ids. Use the tokenizer with which it was trained."
            )
        if tower.pooling == "end":
            end_id = self.tokenizer.end_id if tower.end_id is None else tower.end_id
            ended = (tokens == end_id).any(axis=1)
            if tower.end_id is None:  # the tower takes the largest id as the end token
                ended &= tokens.max(axis=1) == end_id
            endless = np.nonzero(~ended)[0]
            if len(endless):
                raise ValueError(
                    f"the tokenizer gives {texts[endless[0]]!r} no end token {end_id}, from which the text tower of "
                    f"{self.name} takes the embedding. Use the tokenizer with which it was trained."
                )
        return tokens

    def _in_batches(
        self,
        embed: Callable[[np.ndarray], jax.Array],
        prepare: Callable[[range], Callable[[], np.ndarray]],
        numbers: range,
        *,
        size: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield embeddings in batches of one shape; the last is padded, so that only one shape is compiled.

        `prepare(batch)` starts the preparation of a batch and returns a function that waits for it. A device embeds at
        most as many rows as the power of two that holds all `numbers`, unless `size` sets the rows of a batch. The
        shape on a device, and so the bits of an embedding, do not depend on the number of devices.
        """
        size = size or self._device_rows(len(numbers)) * self._rows.mesh.size
        batches = (numbers[start : start + size] for start in range(0, len(numbers), size))
        prepared = deque(prepare(batch) for batch in itertools.islice(batches, _BATCHES_AHEAD))
        running: deque[tuple[jax.Array, int]] = deque()
        while prepared:
            inputs = prepared.popleft()()
            prepared += [prepare(batch) for batch in itertools.islice(batches, 1)]
            rows = len(inputs)
            padding = [(0, size - rows)] + [(0, 0)] * (inputs.ndim - 1)
            running.append((embed(np.pad(inputs, padding)), rows))
            if len(running) > 1:
                yield _fetch(*running.popleft())
        while running:
            yield _fetch(*running.popleft())

    def _device_rows(self, count: int) -> int:
        """Return the rows per device of the batches of `count` inputs."""
        rows = self.batch_size // self._rows.mesh.size
        while rows % 2 == 0 and rows // 2 >= max(count, 1):
            rows //= 2
        return rows


def to_pixels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Return an RGB image resized and cropped by `preprocessing`, `[height, width, 3]` uint8."""
    size = (image.height, image.width) if preprocessing.size is None else preprocessing.size
    return resize_and_crop(image, size=size, crop=preprocessing.crop, resample=preprocessing.resample)


def _fetch(embeddings: jax.Array, rows: int) -> np.ndarray:
    return np.asarray(embeddings)[:rows]


def _concatenate(batches: Iterator[np.ndarray], dim: int) -> np.ndarray:
    rows = list(batches)
    return np.concatenate(rows) if rows else np.empty((0, dim), np.float32)

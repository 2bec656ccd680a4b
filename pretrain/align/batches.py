"""Batches of stored features: rows are gathered as a pure function of seed and step, ahead of time."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data.features.open import Features
from data.features.pairs import Pairs
from data.pipeline.sampler import BatchSampler
from models.config import FeatureHeadSettings, ModelSettings
from pretrain.distributed.sharding import batch_sharding
from pretrain.train_step import IMAGE_FEATURES, TEXT_FEATURES

_PREPARED = 2  # batches ahead
_CHUNK = 4096  # rows that are hashed together
TEXT_IDS = "text_ids"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureLoader:
    """The rows of training batches: the features of an image, and those or the token ids of one of its texts.

    `texts` are features, or token ids `[texts, length]`. `text_ids` `[texts]` has equal numbers for equal texts.
    """

    images: Features
    texts: Features | np.ndarray
    text_ids: np.ndarray
    pairs: Pairs
    sampler: BatchSampler

    def rows(self, step: int, rows: range) -> dict[str, np.ndarray]:
        """Return rows of batch `step`: `image_features` `[rows, dim]` float32, and `tokens` `[rows, length]` int32 or
        `text_features` `[rows, dim]` float32 with `text_ids` `[rows, 1]` int32.
        """
        samples = self.sampler.sample_ids(step, rows)
        examples = self.sampler.position(step) * self.sampler.batch_size + np.arange(rows.start, rows.stop)
        texts = self.pairs.draw_texts(samples, examples // len(self.pairs), seed=self.sampler.seed)
        images = {IMAGE_FEATURES: self.images.gather(self.pairs.image_rows[samples])}
        if not isinstance(self.texts, Features):
            return images | {"tokens": self.texts[texts].astype(np.int32)}
        return images | {TEXT_FEATURES: self.texts.gather(texts), TEXT_IDS: self.text_ids[texts, None]}

    def batches(self, start_step: int, *, rows: slice, place: Callable[[dict[str, np.ndarray]], Any]) -> Iterator[Any]:
        """Yield the batches from `start_step` on without end; a thread prepares them ahead and calls `place` on each.

        `rows` are this host's rows of the global batch.
        """
        own = range(*rows.indices(self.sampler.batch_size))
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="features") as thread:
            steps = itertools.count(start_step)

            def prepare() -> concurrent.futures.Future:
                step = next(steps)
                return thread.submit(lambda: place(self.rows(step, own)))

            prepared = deque(prepare() for _ in range(_PREPARED))
            while True:
                batch = prepared.popleft().result()
                prepared.append(prepare())
                yield batch


def abstract_feature_batch(model: ModelSettings, batch_size: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a global batch on `mesh`."""
    shapes = {IMAGE_FEATURES: ((batch_size, model.vision.input_dim), jnp.float32)}
    if isinstance(model.text, FeatureHeadSettings):
        shapes[TEXT_FEATURES] = ((batch_size, model.text.input_dim), jnp.float32)
        shapes[TEXT_IDS] = ((batch_size, 1), jnp.int32)
    else:
        shapes["tokens"] = ((batch_size, model.text.length), jnp.int32)
    placed = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(*shape, sharding=placed) for name, shape in shapes.items()}


def number_texts(features: Features) -> np.ndarray:
    """Return a number for each row, `[rows]` int32; rows with the same values have the same number."""
    hashes = np.empty(len(features), np.uint64)
    for start in range(0, len(features), _CHUNK):
        rows = features.gather(np.arange(start, min(start + _CHUNK, len(features))))
        digests = [hashlib.blake2b(row, digest_size=8).digest() for row in rows]
        hashes[start : start + len(rows)] = np.frombuffer(b"".join(digests), np.uint64)
    return np.unique(hashes, return_inverse=True)[1].astype(np.int32)

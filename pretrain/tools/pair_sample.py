"""A random sample of a data set's pairs: image features and texts, for estimates about the data set."""

from __future__ import annotations

import concurrent.futures
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from data.features.open import Features
from data.pipeline.caption_groups import lsa_embeddings, tfidf_vectors
from data.pipeline.image_ops import EncodedImage, resize_and_crop
from data.pipeline.loader import choose_caption
from data.pipeline.sampler import generator
from data.sources.base import BadRecord, Source
from foundation.progress import ProgressBar
from models.checkpoints.describe import describe_checkpoint
from models.towers import create_model
from pretrain.align.data import AlignData
from pretrain.config.data import DataSettings
from pretrain.tools.caption_noise import LEAST_PAIRS, standardize, unit

ENCODER = pathlib.Path(__file__).parents[2] / "checkpoints" / "photos"
_IMAGE_SIZE = 128  # pixels; 224, as the encoder was trained, takes three times as long
_SECONDS = 40.0  # after which no more images are read, if they suffice for an estimate
_BATCH = 16
_THREADS = 4
_SIMILAR_WORDS, _SIMILAR_FEATURES = 0.3, 0.5  # least cosines of similar texts


class PairSample(NamedTuple):
    """A random sample of pairs.

    images: standardised image features `[pairs, dim]` of length 1.
    texts: centred text vectors `[pairs, text_dim]` of length 1, for a consensus.
    comparable: vectors of length 1, dense or sparse, whose cosines tell similar texts, which have at least `similar`.
    encoder: name of the encoder of the image features.
    """

    images: np.ndarray
    texts: np.ndarray
    comparable: Any
    similar: float
    encoder: str


class EmbeddedPairs(NamedTuple):
    """Image features `[pairs, dim]` and the captions of the same samples."""

    images: np.ndarray
    captions: list[str]


def sample_captions(source: Source, data: DataSettings, *, pairs: int, seed: int) -> PairSample:
    """Return up to `pairs` random samples of a source, as many as are read in 40 seconds but at least 512."""
    embedded = embed_pairs(source, data, pairs=pairs, seed=seed, seconds=_SECONDS)
    return compare_captions(*embedded, encoder="checkpoints/photos")


def embed_pairs(source: Source, data: DataSettings, *, pairs: int, seed: int, seconds: float) -> EmbeddedPairs:
    """Read up to `pairs` random samples of a source and embed their images by checkpoints/photos.

    Stops after `seconds` if there are at least 512. Unusable records are left out. Raises `FileNotFoundError` if the
    checkpoint is missing.
    """
    order = np.random.default_rng(seed).permutation(len(source))[:pairs].tolist()
    read = functools.partial(_read_pair, source, data, seed)
    features, captions = [], []
    end = time.monotonic() + seconds
    embed = _open_encoder()
    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as threads,
        ProgressBar(len(order), description="embedding images", unit="images", delay=2.0) as bar,
    ):
        for numbers in _ahead(threads, read, order):
            found = [pair for pair in (future.result() for future in numbers) if pair is not None]
            if found:
                features.append(embed(np.stack([pixels for pixels, _ in found])))
                captions += [caption for _, caption in found]
            bar.update(len(numbers))
            if time.monotonic() > end and len(captions) >= LEAST_PAIRS:
                break
    images = np.concatenate(features) if features else np.zeros((0, 1), np.float32)
    return EmbeddedPairs(images, captions)


def _ahead(threads: concurrent.futures.Executor, read: Any, order: list[int]) -> Iterator[list]:
    """Yield the futures of one batch after the other, with one batch prepared ahead."""
    batches = (order[start : start + _BATCH] for start in range(0, len(order), _BATCH))
    prepared = None
    for batch in batches:
        submitted = [threads.submit(read, index) for index in batch]
        if prepared is not None:
            yield prepared
        prepared = submitted
    if prepared is not None:
        yield prepared


def _read_pair(source: Source, data: DataSettings, seed: int, index: int) -> tuple[np.ndarray, str] | None:
    """Return the pixels and a caption of a sample, or None for an unusable record."""
    try:
        record = source[index]
        caption = choose_caption(record, data.caption, rng=generator(seed, index))
        encoded = EncodedImage(record.image, record.key, max_pixels=data.max_pixels)
        scale = _IMAGE_SIZE / min(encoded.size)
        image = encoded.decode(at_least=(scale * encoded.size[0], scale * encoded.size[1]))
        return resize_and_crop(image, size=_IMAGE_SIZE, crop=(_IMAGE_SIZE, _IMAGE_SIZE)), caption
    except BadRecord:
        return None


def _open_encoder() -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that embeds up to 16 images of 128 pixels, `[images, 128, 128, 3]` uint8."""
    checkpoint = describe_checkpoint(ENCODER, image_size=_IMAGE_SIZE)
    model, parameters = create_model(checkpoint.settings), checkpoint.read()

    @jax.jit
    def program(parameters: Any, pixels: jax.Array) -> jax.Array:
        return model.embed_images(parameters, checkpoint.preprocessing.normalize(pixels)).astype("float32")

    def embed(pixels: np.ndarray) -> np.ndarray:
        padding = [(0, _BATCH - len(pixels)), (0, 0), (0, 0), (0, 0)]
        return np.asarray(program(parameters, np.pad(pixels, padding)))[: len(pixels)]

    return embed


def sample_features(data: AlignData, *, pairs: int, seed: int) -> PairSample:
    """Return up to `pairs` random pairs of an alignment run, with its own image features."""
    samples = np.random.default_rng(seed).permutation(len(data.pairs))[:pairs]
    images = data.images.gather(data.pairs.image_rows[samples])
    rows = data.pairs.draw_texts(samples, np.zeros_like(samples), seed=seed)
    encoder = str(data.images.encoder.get("name") or "an encoder without description")
    if not isinstance(data.texts, Features):
        captions = [data.texts.texts[row] for row in rows]
        return compare_captions(images, captions, encoder=encoder)
    texts = data.texts.gather(rows)
    texts = unit(texts - texts.mean(axis=0))
    return PairSample(standardize(images), texts, texts, _SIMILAR_FEATURES, encoder)


def compare_captions(images: np.ndarray, captions: list[str], *, encoder: str) -> PairSample:
    """Return the sample of image features `[pairs, dim]` and captions, which are compared by their words."""
    if not captions:
        return PairSample(images, np.zeros((0, 1)), np.zeros((0, 1)), _SIMILAR_WORDS, encoder)
    words = lsa_embeddings(captions, seed=0)
    texts = unit(words - words.mean(axis=0))
    return PairSample(standardize(images), texts, tfidf_vectors(captions), _SIMILAR_WORDS, encoder)

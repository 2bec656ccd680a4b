"""The data of an alignment run: features, captions and their pairs, checked before the run begins."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.features.captions import Captions, pair_captions, read_captions, read_pairs
from data.features.open import Features, FeatureStatistics, describe, open_features
from data.features.pairs import Pairs, pair_ids, pair_rows, pair_table, swap_texts
from data.io.fingerprint import fingerprint_files
from data.pipeline.sampler import BatchSampler
from models.config import HeadOptions
from models.text.tokenizer import Tokenizer
from pretrain.align.batches import FeatureLoader, number_texts
from pretrain.align.config import AlignSettings

logger = logging.getLogger(__name__)

_CHUNK = 4096  # captions that are tokenised together


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignData:
    """Image features, texts and their pairs.

    `statistics` are those by which heads standardise features, by side: "vision" and "text".
    """

    images: Features
    texts: Features | Captions
    pairs: Pairs
    statistics: Mapping[str, FeatureStatistics]
    sources: list[Mapping[str, Any]]


def open_align_data(settings: AlignSettings, data_dir: str | os.PathLike) -> AlignData:
    """Open and check the data of a run, and log how each part was read; raises `ValueError` with one sentence."""
    images = open_features(settings.image_features, kind="images")
    statistics = {"vision": _measure(images, settings.image_head, "image features")}
    sources = list(images.sources)
    if settings.captions:
        texts = read_captions(settings.captions, data_dir, text_keys=settings.text_keys)
        pairs = pair_captions(images.ids, len(images), texts, pairing=settings.pairing)
    else:
        texts = open_features(settings.text_features, kind="texts")
        statistics["text"] = _measure(texts, settings.text_head, "text features")
        pairs = pair_features(images, texts, settings, data_dir)
    sources += texts.sources
    if settings.pairs is not None:
        sources.append(
            {"source": settings.pairs, "samples": len(pairs.text_rows), "fingerprint": _hash(settings.pairs)}
        )
    pairs = swap_texts(pairs, settings.wrong_texts, seed=settings.seed)
    return AlignData(images=images, texts=texts, pairs=pairs, statistics=statistics, sources=sources)


def _measure(features: Features, head: HeadOptions, kind: str) -> FeatureStatistics:
    """Return the statistics by which a head standardises features, after they are logged."""
    statistics = features.measure(normalize=head.normalize)
    logger.info(describe(features, statistics, kind=kind))
    if head.deviation == "each":
        return statistics
    shared = np.sqrt(np.mean(np.square(statistics.deviation)))
    return statistics._replace(deviation=np.full_like(statistics.deviation, shared))


def _hash(path: str) -> str:
    return fingerprint_files([pathlib.Path(path).expanduser()])


def pair_features(images: Features, texts: Features, settings: AlignSettings, data_dir: str | os.PathLike) -> Pairs:
    """Return the pairs of image and text features.

    Ids of texts that are only the numbers of their lines, as `embed` gives them to plain text, are no ids of images.
    """
    have_ids = images.ids is not None and texts.ids is not None
    if (settings.pairs is not None or settings.pairing == "id") and not have_ids:
        side = "image" if images.ids is None else "text"
        raise ValueError(
            f"the {side} features have no ids, which pairs by id need. Put an .ids.jsonl file next to them."
        )
    if settings.pairs is not None:
        return pair_table(images.ids, texts.ids, read_pairs(settings.pairs, data_dir), name=settings.pairs)
    if settings.pairing == "id":
        return pair_ids(images.ids, texts.ids)
    if settings.pairing == "auto" and have_ids:
        numbered = texts.ids == tuple(map(str, range(len(texts))))
        if not (numbered and set(texts.ids).isdisjoint(images.ids)):
            return pair_ids(images.ids, texts.ids)
    return pair_rows(len(images), np.arange(len(texts)), num_rows=len(texts))


def create_feature_loader(data: AlignData, settings: AlignSettings, tokenizer: Tokenizer | None) -> FeatureLoader:
    """Return the loader of the run's batches; all captions are tokenised once."""
    if isinstance(data.texts, Features):
        texts, text_ids = data.texts, number_texts(data.texts)
    else:
        texts, text_ids = tokenize_all(data.texts.texts, tokenizer), np.empty(0, np.int32)
    sampler = BatchSampler(lengths=(len(data.pairs),), batch_size=settings.batch_size, seed=settings.seed)
    return FeatureLoader(images=data.images, texts=texts, text_ids=text_ids, pairs=data.pairs, sampler=sampler)


def tokenize_all(texts: list[str], tokenizer: Tokenizer) -> np.ndarray:
    """Return the token ids of all texts, `[texts, length]`, in two bytes per token where they fit."""
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    chunks = [texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)]
    return np.concatenate([tokenizer(chunk).astype(dtype) for chunk in chunks])

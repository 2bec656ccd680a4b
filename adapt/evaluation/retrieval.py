"""Image-text retrieval as a task of an evaluation: images and captions of a source, recall, and example results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from adapt.embedding.cache import Hosts, Progress, embed_images, embed_texts
from adapt.embedding.encoder import Encoder
from adapt.evaluation.retrieval_metrics import RetrievalRecall, retrieval_recall
from data.fewshot.labelled import LabelledImages
from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import decode
from data.pipeline.thumbnails import data_uri
from data.sources.open import open_source

_SHOWN, _NEAREST = 12, 6


class PairEmbeddings(NamedTuple):
    """Embeddings of images `[images, dim]` and of texts `[texts, dim]`."""

    images: np.ndarray
    texts: np.ndarray


class RetrievalResult(NamedTuple):
    """The rows of both directions, and examples: a text and its nearest images as data URIs."""

    rows: list[dict[str, Any]]
    examples: list[dict[str, Any]]


class CaptionedImages(NamedTuple):
    """The images of a source, the texts that describe them, and the number of the image that each text describes."""

    name: str
    caption: str
    images: LabelledImages
    texts: Sequence[str]
    image_of_text: np.ndarray
    image_names: Sequence[str]

    @property
    def fingerprint(self) -> str:
        """A hash of images and texts."""
        return fingerprint(self.images.fingerprint, self.image_of_text, *self.texts)

    def embed(
        self, encoder: Encoder, *, cache: str | os.PathLike, hosts: Hosts | None, progress: Progress
    ) -> PairEmbeddings:
        """Return the embeddings of images and texts."""
        name = f"{self.name}: images"
        images = embed_images(encoder, self.images, cache, name=name, hosts=hosts, progress=progress)
        return PairEmbeddings(images, embed_texts(encoder, self.texts, cache, hosts=hosts))

    def evaluate(
        self, encoder: Encoder, *, cache: str | os.PathLike, hosts: Hosts | None, progress: Progress
    ) -> RetrievalResult:
        """Return recall in both directions, as rows, and a few example results."""
        embeddings = self.embed(encoder, cache=cache, hosts=hosts, progress=progress)
        recall = retrieval_recall(embeddings.images, embeddings.texts, image_of_text=self.image_of_text)
        return RetrievalResult(self._rows(recall), self._examples(recall.nearest_images))

    def _rows(self, found: RetrievalRecall) -> list[dict[str, Any]]:
        queries = {"text→image": len(self.texts), "image→text": len(np.unique(self.image_of_text))}
        return [
            {
                "task": "retrieval",
                "dataset": self.name,
                "dataset_fingerprint": self.fingerprint,
                "method": "zero_shot",
                "question": direction,
                "shots": 0,
                "seed": None,
                "metric": f"{direction} recall@{k}",
                "k": k,
                "value": recall.value,
                "query_error": recall.query_error,
                "settings": {"caption": self.caption},
                "selection": "none",
                "logit_scale": None,
                "classes": len(self.images) if direction == "text→image" else len(self.texts),
                "queries": queries[direction],
            }
            for direction, recall_at in (
                ("text→image", found.text_to_image),
                ("image→text", found.image_to_text),
            )
            for k, recall in recall_at.items()
        ]

    def _examples(self, nearest: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "text": self.texts[query],
                "images": [
                    {
                        "uri": data_uri(self.images.image(int(image)), 96, quality=85),
                        "text": self.image_names[image],
                        "match": bool(image == self.image_of_text[query]),
                    }
                    for image in nearest[query][:_NEAREST]
                ],
            }
            for query in np.random.default_rng(0).permutation(len(self.texts))[:_SHOWN]
        ]


def open_captioned_images(name: str, caption: str, *, data_dir: str | os.PathLike) -> CaptionedImages:
    """Read a source once; an image is described by its "first" text, "all" of them joined, or "each" on its own.

    Raises `ValueError` for a sample without text.
    """
    source = open_source(name, data_dir)
    digests, names, texts, image_of_text = [], [], [], []
    for number in range(len(source)):
        record = source[number]
        if not record.texts:
            raise ValueError(f"{name}: sample {record.key} has no text, which retrieval needs. Remove the sample.")
        digests.append(fingerprint(record.image))
        names.append(record.texts[0])
        captions = _captions(record.texts, caption)
        texts += captions
        image_of_text += [number] * len(captions)

    def image(number: int) -> Image.Image:
        record = source[number]
        return decode(record.image, record.key)

    labels = np.zeros(len(source), np.int64)
    images = LabelledImages(labels=labels, image=image, key=source.key, fingerprint=fingerprint(*digests))
    return CaptionedImages(name, caption, images, texts, np.array(image_of_text), names)


def _captions(texts: Sequence[str], caption: str) -> list[str]:
    if caption == "first":
        return [texts[0]]
    if caption == "all":
        return [", ".join(texts)]
    return list(texts)

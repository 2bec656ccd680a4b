"""Retrieval as a task of an evaluation: the images and texts of a source, and pictures that show what is found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from adapt.embedding.cache import Hosts, Progress, embed_images, embed_texts
from adapt.embedding.encoder import Encoder
from adapt.evaluation.retrieval_metrics import retrieval
from data.fewshot.labelled import LabelledImages
from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import decode
from data.pipeline.thumbnails import data_uri
from data.sources.open import open_source

EXAMPLES = "examples"
_SHOWN, _NEAREST = 12, 6


class Captioned(NamedTuple):
    """The images of a source, texts that describe them, and the number of the image that each text is of."""

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
        self, encoder: Encoder, cache: str | os.PathLike, hosts: Hosts | None, progress: Progress
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the embeddings of images `[images, dim]` and texts `[texts, dim]`."""
        name = f"{self.name}: images"
        images = embed_images(encoder, self.images, cache, name=name, hosts=hosts, progress=progress)
        return images, embed_texts(encoder, self.texts, cache, hosts=hosts)

    def run(
        self, encoder: Encoder, cache: str | os.PathLike, hosts: Hosts | None, progress: Progress
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Returns the rows of both directions, and examples: a text and its nearest pictures as data URIs."""
        found = retrieval(*self.embed(encoder, cache, hosts, progress), self.image_of_text)
        queries = {"text→image": len(self.texts), "image→text": len(np.unique(self.image_of_text))}
        rows = [
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
                "value": value,
                "settings": {"caption": self.caption},
                "selection": "none",
                "logit_scale": None,
                "classes": len(self.images) if direction == "text→image" else len(self.texts),
                "queries": queries[direction],
            }
            for direction, recall in (("text→image", found.text_to_image), ("image→text", found.image_to_text))
            for k, value in recall.items()
        ]
        return rows, self._examples(found.nearest_images)

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


def open_captioned(name: str, caption: str, data_dir: str | os.PathLike) -> Captioned:
    """Reads a source once; `caption` says what describes an image: its first text, all of them joined, or each."""
    source = open_source(name, data_dir)
    described = {
        "first": lambda texts: [texts[0]],
        "all": lambda texts: [", ".join(texts)],
        "each": list,
    }[caption]
    digests, names, texts, image_of_text = [], [], [], []
    for number in range(len(source)):
        record = source[number]
        if not record.texts:
            raise ValueError(f"{name}: {record.key} has no text; it cannot serve for retrieval")
        digests.append(fingerprint(record.image))
        names.append(record.texts[0])
        of_image = described(record.texts)
        texts += of_image
        image_of_text += [number] * len(of_image)

    def image(number: int) -> Image.Image:
        record = source[number]
        return decode(record.image, record.key)

    labels = np.zeros(len(source), np.int64)
    images = LabelledImages(labels=labels, image=image, key=source.key, fingerprint=fingerprint(*digests))
    return Captioned(name, caption, images, texts, np.array(image_of_text), names)

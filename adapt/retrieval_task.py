"""Retrieval as a task of an evaluation: the images and texts of a source, and pictures that show what is found."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from adapt.embeddings import Hosts, Progress, embed_images, embed_texts
from adapt.encoder import Encoder
from adapt.pages import data_uri
from adapt.retrieval import retrieval
from data.fingerprint import fingerprint
from data.images import decode
from data.labelled import LabelledImages
from data.sources import open_source

EXAMPLES = "examples"
_SHOWN, _NEAREST = 12, 6


class Task(NamedTuple):
    """The retrieval of a source: `texts` and the image that each is of."""

    encoder: Encoder
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

    def embed(self, cache: str | os.PathLike, hosts: Hosts | None, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        """Returns the embeddings of images `[images, dim]` and texts `[texts, dim]`."""
        name = f"{self.name}: images"
        images = embed_images(self.encoder, self.images, cache, name=name, hosts=hosts, progress=progress)
        return images, embed_texts(self.encoder, self.texts, cache, hosts=hosts)

    def run(
        self, cache: str | os.PathLike, hosts: Hosts | None, progress: Progress
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Returns the rows of both directions, and examples: a text and its nearest pictures as data URIs."""
        found = retrieval(*self.embed(cache, hosts, progress), self.image_of_text)
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


def evaluate_retrieval(encoder: Encoder, name: str, caption: str, data_dir: str | os.PathLike) -> Task:
    """Opens the retrieval of a source; `caption` says what describes an image: its first text, all, or each."""
    source = open_source(name, data_dir)
    records = [source[index] for index in range(len(source))]
    untold = next((record.key for record in records if not record.texts), None)
    if untold is not None:
        raise ValueError(f"{name}: {untold} has no text; it cannot serve for retrieval")
    described = {
        "first": lambda texts: [texts[0]],
        "all": lambda texts: [", ".join(texts)],
        "each": list,
    }[caption]
    texts = [described(record.texts) for record in records]
    image: Callable[[int], Image.Image] = lambda index: decode(records[index].image, records[index].key)  # noqa: E731
    images = LabelledImages(
        labels=np.zeros(len(records), np.int64),
        image=image,
        key=lambda index: records[index].key,
        fingerprint=fingerprint(*(record.image for record in records)),
    )
    image_of_text = np.repeat(np.arange(len(records)), [len(each) for each in texts])
    flat = [text for each in texts for text in each]
    return Task(encoder, name, caption, images, flat, image_of_text, [record.texts[0] for record in records])

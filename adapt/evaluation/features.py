"""Embeddings of a task: its support images, its queries, and its classes by their texts."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from adapt.embedding.cache import Hosts, ImageEncoder, Progress, embed_classes, embed_images
from adapt.embedding.identical_images import find_identical
from adapt.evaluation.tasks import EvaluationTask, QuerySet
from data.fewshot.labelled import LabelledImages
from data.fewshot.open import Dataset


class ImageEmbeddings(NamedTuple):
    """Embeddings of support images `[n, dim]` and queries `[queries, dim]`, not normalised."""

    support: np.ndarray
    queries: np.ndarray


class TaskEmbeddings(NamedTuple):
    """Embeddings of support images `[n, dim]` and queries `[queries, dim]`, not normalised, and of the class texts.

    `class_texts` maps a variant to `[classes, dim]`: "ensemble" (all templates) and, for the zero-shot task, "single"
    (the one template) where the two differ. It maps "ensemble" to None for a checkpoint that embeds images only.
    `identical` is the number of queries of each query set that have the pixels
    of another image that support sets are drawn from.
    """

    support: np.ndarray
    queries: np.ndarray
    class_texts: Mapping[str, np.ndarray | None]
    identical: Mapping[str, int] = {}


def count_identical(
    task: EvaluationTask, embeddings: TaskEmbeddings, find: Callable[[QuerySet, np.ndarray], np.ndarray]
) -> TaskEmbeddings:
    """Return the embeddings with `identical` filled in; it stays empty for a task without support.

    `find` returns for the queries `[queries, dim]` of a query set the row of an identical support image, or −1.
    """
    if not len(embeddings.support):
        return embeddings
    counts, start = {}, 0
    for query_set in task.query_sets:
        stop = start + len(query_set.labels)
        found = find(query_set, embeddings.queries[start:stop])
        counts[query_set.name], start = int((found >= 0).sum()), stop
    return embeddings._replace(identical=counts)


class TaskEmbedder:
    """Embed tasks with one checkpoint: read what `cache` holds, and keep the images of a dataset in memory."""

    def __init__(
        self, encoder: ImageEncoder, cache: pathlib.Path, *, name: str, hosts: Hosts | None, progress: Progress
    ):
        self.encoder, self.cache, self.name, self.hosts, self.progress = encoder, cache, name, hosts, progress
        self._embedded: dict[str, np.ndarray] = {}

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of every embedding call: where the cache is, which hosts take part, and the progress."""
        return {"cache": self.cache, "hosts": self.hosts, "progress": self.progress}

    def clear(self) -> None:
        """Release the image embeddings in memory."""
        self._embedded.clear()

    def embed(self, task: EvaluationTask, dataset: Dataset) -> TaskEmbeddings:
        """Return the embeddings of a task, which are the same for every method."""
        images = self.embed_images(task)
        if not self.encoder.embeds_texts:
            return TaskEmbeddings(*images, {"ensemble": None})
        variants = {"ensemble": task.templates}
        single = ((dataset.template,),) * len(task.class_names)
        if task.name == "zero_shot" and single != task.templates:
            variants["single"] = single
        class_texts = {
            variant: embed_classes(self.encoder, task.class_names, templates, self.cache, hosts=self.hosts)
            for variant, templates in variants.items()
        }
        return TaskEmbeddings(*images, class_texts)

    def embed_images(self, task: EvaluationTask) -> ImageEmbeddings:
        """Return the embeddings of the images of a task."""
        support = np.zeros((0, self.encoder.dim), np.float32)
        if task.support_images is not None and any(len(each.rows) for each in task.support_sets):
            support = self._images(task.support_images, f"{task.dataset} support")
        queries = [self._images(each.images, f"{task.dataset} queries {each.name}".strip()) for each in task.query_sets]
        return ImageEmbeddings(support, np.concatenate(queries))

    def count_identical(self, task: EvaluationTask, embeddings: TaskEmbeddings) -> TaskEmbeddings:
        """Return the embeddings with `identical` filled in; it stays empty for a task without support."""

        def find(query_set: QuerySet, queries: np.ndarray) -> np.ndarray:
            images = task.support_images.image, query_set.images.image
            return find_identical(embeddings.support, queries, *images, own_rows=query_set.pool_rows)

        return count_identical(task, embeddings, find)

    def _images(self, images: LabelledImages, part: str) -> np.ndarray:
        whole, name = images.parent or images, f"{self.name}: {part}"
        if whole.fingerprint not in self._embedded:
            self._embedded[whole.fingerprint] = embed_images(
                self.encoder, whole, self.cache, name=name, hosts=self.hosts, progress=self.progress
            )
        embeddings = self._embedded[whole.fingerprint]
        return embeddings if images.rows is None else embeddings[images.rows]

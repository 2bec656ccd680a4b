"""What the towers of a checkpoint make of a task: embeddings of its images, and of its classes by their texts."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from adapt.embedding.cache import Hosts, Progress, embed_classes, embed_images
from adapt.embedding.encoder import Encoder
from adapt.evaluation.tasks import Task
from data.fewshot.labelled import LabelledImages
from data.fewshot.open import Dataset


class Features(NamedTuple):
    """Raw embeddings of examples `[n, dim]` and queries `[queries, dim]`, and of classes, `[classes, dim]` by variant.

    The variants are the ensemble of templates, and where nothing else is seen the single one too.
    """

    support: np.ndarray
    queries: np.ndarray
    texts: Mapping[str, np.ndarray]


class TaskFeatures:
    """Embeds for one checkpoint; what is in `cache` is read, and the images of a dataset stay in memory."""

    def __init__(self, encoder: Encoder, cache: pathlib.Path, *, name: str, hosts: Hosts | None, progress: Progress):
        self.encoder, self.cache, self.name, self.hosts, self.progress = encoder, cache, name, hosts, progress
        self._embedded: dict[str, np.ndarray] = {}

    def forget(self) -> None:
        """Lets go of the images in memory."""
        self._embedded.clear()

    def of(self, task: Task, dataset: Dataset) -> Features:
        """Returns what a task needs, whatever the method."""
        support = np.zeros((0, self.encoder.dim), np.float32)
        if task.support is not None and any(len(case.rows) for case in task.cases):
            support = self._images(task.support, f"{task.dataset} examples")
        queries = np.concatenate(
            [self._images(each.images, f"{task.dataset} queries {each.name}".strip()) for each in task.questions]
        )
        variants = {"ensemble": task.templates}
        single = ((dataset.settings.template,),) * len(task.class_names)
        if task.name == "zero_shot" and single != task.templates:
            variants["single"] = single
        texts = {
            variant: embed_classes(self.encoder, task.class_names, templates, self.cache, hosts=self.hosts)
            for variant, templates in variants.items()
        }
        return Features(support, queries, texts)

    def _images(self, images: LabelledImages, part: str) -> np.ndarray:
        whole, name = images.whole or images, f"{self.name}: {part}"
        if whole.fingerprint not in self._embedded:
            self._embedded[whole.fingerprint] = embed_images(
                self.encoder, whole, self.cache, name=name, hosts=self.hosts, progress=self.progress
            )
        found = self._embedded[whole.fingerprint]
        return found if images.rows is None else found[images.rows]

"""Stored features in the places of an encoder and of embedded tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from adapt.evaluation.features import TaskEmbeddings, count_identical
from adapt.evaluation.tasks import EvaluationTask, QuerySet
from data.features.identical_rows import find_identical_rows
from data.features.labelled import FeatureDataset
from data.features.rows import FeatureRows
from data.fewshot.labelled import DatasetSettings, LabelledImages
from data.fewshot.open import Dataset
from data.io.fingerprint import fingerprint

STORED = "stored"  # the variant of class texts whose templates are not known


class _Dtype(NamedTuple):
    dtype: str


class StoredEncoder:
    """The properties of the encoder of a data set that an evaluation needs; with the source of "transfer", of both."""

    def __init__(self, name: str, features: FeatureDataset, source: FeatureDataset | None = None):
        self.name, self.settings = name, _Dtype(features.dtype)
        self.embeds_texts = features.texts is not None
        both = [features] if source is None else [features, source]
        self.fingerprint = fingerprint(*(each.fingerprint for each in both))
        self.image_fingerprint = fingerprint(*(each.image_fingerprint for each in both))


class StoredEmbedder:
    """Look up the features of tasks; `features` are the data sets of one encoder by name."""

    def __init__(self, features: Mapping[str, FeatureDataset]):
        self._texts = {name: each.texts for name, each in features.items()}
        self._rows = {
            _fingerprint(each, part): rows.features for each in features.values() for part, rows in _parts(each).items()
        }

    def clear(self) -> None:
        """Do nothing: features stay in memory."""

    def embed(self, task: EvaluationTask, dataset: Dataset) -> TaskEmbeddings:
        """Return the features of a task."""
        queries = np.concatenate([self._features(each.images) for each in task.query_sets])
        support = np.zeros((0, queries.shape[1]), np.float32)
        if task.support_images is not None and any(len(each.rows) for each in task.support_sets):
            support = self._features(task.support_images)
        names = [*([task.query_sets[0].name] if task.name == "transfer" else []), dataset.name]
        texts = [self._texts[name] for name in names]
        number = len(task.class_names)  # fewer than those of the data set if some of its classes are unknown
        class_texts = None if any(each is None for each in texts) else np.concatenate(texts)[:number]
        return TaskEmbeddings(support, queries, {STORED: class_texts})

    def count_identical(self, task: EvaluationTask, embeddings: TaskEmbeddings) -> TaskEmbeddings:
        """Return the embeddings with the number of query rows that are equal to a support row, by query set."""

        def find(query_set: QuerySet, queries: np.ndarray) -> np.ndarray:
            return find_identical_rows(embeddings.support, queries, own_rows=query_set.pool_rows)

        return count_identical(task, embeddings, find)

    def _features(self, images: LabelledImages) -> np.ndarray:
        features = self._rows[(images.parent or images).fingerprint]
        return features if images.rows is None else features[images.rows]


def as_dataset(features: FeatureDataset) -> Dataset:
    """Return a data set of stored features as one of images that have no pictures.

    Its fingerprint does not depend on the features, so that encoders are compared on the same rows: those with equal
    ids, or row numbers, and labels.
    """
    parts = {
        part: LabelledImages(
            labels=rows.labels, image=None, key=rows.ids.__getitem__, fingerprint=_fingerprint(features, part)
        )
        for part, rows in _parts(features).items()
    }
    return Dataset(
        name=features.name,
        settings=DatasetSettings(support=features.path),
        class_names=features.class_names,
        support=parts.get("support"),
        query=parts.get("query"),
        notes=features.notes,
    )


def _parts(features: FeatureDataset) -> dict[str, FeatureRows]:
    parts = {"support": features.support, "query": features.query}
    return {part: rows for part, rows in parts.items() if rows is not None}


def _fingerprint(features: FeatureDataset, part: str) -> str:
    rows = _parts(features)[part]
    return fingerprint(features.name, part, rows.labels.astype("<i8"), *rows.ids)

"""The accuracy of the baselines, on the support sets and queries of a few-shot task."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adapt.embedding.cache import Hosts, Progress
from adapt.evaluation.baselines.classification import CLASSIFIERS
from adapt.evaluation.baselines.encoders import open_baseline
from adapt.evaluation.features import TaskEmbedder
from adapt.evaluation.results import Unit, append_cost, discard_results
from adapt.evaluation.scoring import EXCLUDED, score, stack_queries
from adapt.evaluation.tasks import EvaluationTask, counted_queries
from data.fewshot.open import Dataset
from data.io.fingerprint import fingerprint

logger = logging.getLogger(__name__)

TASK = "baseline"  # of the rows, so that they are never compared with those of methods
_VERSION = "1"  # of the classifiers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """A baseline of one checkpoint, whose name in the results is `checkpoint`; `kind` is a name in `BASELINES`."""

    kind: str
    checkpoint: str
    embedder: TaskEmbedder

    @classmethod
    def open(
        cls,
        kind: str,
        path: str | os.PathLike,
        *,
        name: str,
        image_size: int | None,
        max_patches: int | None,
        cache: pathlib.Path,
        hosts: Hosts | None,
        progress: Progress,
    ) -> Baseline:
        """Open the baseline of the checkpoint at `path`, called `name`, for images of a size or number of patches."""
        shown = f"{name}, {kind}".strip(", ")
        encoder = open_baseline(kind, path, image_size=image_size, max_patches=max_patches)
        embedder = TaskEmbedder(encoder, cache, name=shown, hosts=hosts, progress=progress)
        return cls(kind=kind, checkpoint=name, embedder=embedder)

    def evaluate(
        self,
        task: EvaluationTask,
        dataset: Dataset,
        *,
        out: pathlib.Path,
        provenance: Mapping[str, Any],
        compute: bool,
    ) -> Unit:
        """Return the unit of a few-shot task; with `compute`, first compute it if it is not finished."""
        depends_on = (
            _VERSION,
            self.embedder.encoder.image_fingerprint,
            task.support_images.fingerprint,
            *(query_set.fingerprint for query_set in task.query_sets),
            *(f"{each.shots} {each.seed} {fingerprint(each.rows, each.labels)}" for each in task.support_sets),
            task.metric,
            *filter(None, [task.protocol.slug]),
        )
        unit = Unit.create(self.checkpoint, task.dataset, TASK, self.kind, depends_on=depends_on)
        if compute and unit.read(out) is None:
            discard_results(out)
            began = time.monotonic()
            rows = self._rows(task)
            context = dict(provenance) | {"dataset_fingerprint": dataset.fingerprint}
            unit.write(out, [row | context for row in rows])
            counts = {"cases": len(task.support_sets), "queries": sum(len(each.labels) for each in task.query_sets)}
            seconds = round(time.monotonic() - began, 3)
            named = {"checkpoint": self.checkpoint, "dataset": task.dataset, "task": TASK}
            append_cost(out, **named, what=self.kind, seconds=seconds, **counts)
            logger.info(self._log_line(task, rows))
        return unit

    def _log_line(self, task: EvaluationTask, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return the mean accuracy of each classifier at the most shots."""
        most = max(each.shots for each in task.support_sets)
        values: dict[str, list[float]] = {}
        for row in rows:
            if row["shots"] == most:
                values.setdefault(row["method"].partition(": ")[2], []).append(row["value"])
        means = ", ".join(f"{name} {np.mean(each):.1%}" for name, each in values.items())
        return f"{self.checkpoint}, {task.dataset}, baseline {self.kind}: {means} at {most} shot{'s' * (most > 1)}"

    def _rows(self, task: EvaluationTask) -> list[dict[str, Any]]:
        self.embedder.clear()
        images, queries = self.embedder.embed_images(task), stack_queries(task.query_sets)
        rows = []
        for name, classify in CLASSIFIERS.items():
            for support_set in task.support_sets:
                predicted = classify(images.support[support_set.rows], support_set.labels, images.queries)
                for query_set, span in zip(task.query_sets, queries.spans, strict=True):
                    counted = np.where(counted_queries(task, support_set, query_set), predicted[span], EXCLUDED)
                    rows.append(
                        {
                            "task": TASK,
                            "dataset": task.dataset,
                            "method": f"{self.kind}: {name}",
                            "shots": support_set.shots,
                            "seed": support_set.seed,
                            "metric": task.metric,
                            "k": None,
                            "settings": {},
                            "selection": "none",
                            "short": support_set.short,
                            "wrong_labels": support_set.wrong_labels,
                            "question": query_set.name,
                        }
                        | task.protocol.fields
                        | score(counted, query_set.labels, candidates=query_set.candidates, metric=task.metric)
                    )
        return rows

"""Evaluation of one checkpoint, unit by unit."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib.metadata
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from adapt.adapters.base import settings_of
from adapt.adapters.registry import create, find
from adapt.embedding.cache import Hosts, Progress
from adapt.embedding.encoder import Encoder
from adapt.evaluation.artifacts import EXAMPLES, has_all_files, write_classes, write_distances
from adapt.evaluation.baselines.evaluate import Baseline
from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.features import TaskEmbedder, TaskEmbeddings
from adapt.evaluation.fewshot import run_grid
from adapt.evaluation.protocols.open_set import LOGIT, PROBABILITY, UNKNOWN, detection_rows, far_scores
from adapt.evaluation.results import PREDICTIONS, Unit, append_cost, discard_results
from adapt.evaluation.retrieval import CaptionedImages
from adapt.evaluation.scoring import EXCLUDED, score, stack_queries
from adapt.evaluation.stored.embedder import STORED, StoredEmbedder, StoredEncoder
from adapt.evaluation.tasks import NEED_TEXT, EvaluationTask, SupportSet, build_task, counted_queries
from adapt.model_selection.hyperparameters import DEFAULTS, Grid
from data.fewshot.open import Dataset
from data.io.fingerprint import fingerprint
from foundation.files.array_files import save_array
from foundation.files.atomic import write_text

logger = logging.getLogger(__name__)

_THREADS = 2


class NoteLog:
    """Log each note once, although several checkpoints give rise to it."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def note(self, text: str) -> None:
        """Log a note unless it was logged before."""
        if text not in self._logged:
            self._logged.add(text)
            logger.info(f"note: {text}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointEvaluator:
    """One opened checkpoint, or the stored features of a data set, with the settings and folders of its evaluation.

    `without_texts` says, after the name, why there are no class texts if the encoder does not embed texts.
    """

    name: str
    path: str
    settings: EvaluateSettings
    out: pathlib.Path
    encoder: Encoder | StoredEncoder
    embedder: TaskEmbedder | StoredEmbedder
    notes: NoteLog
    baselines: tuple[Baseline, ...] = ()
    without_texts: str = "embeds images only"
    stored_features: bool = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike,
        *,
        name: str,
        settings: EvaluateSettings,
        out: pathlib.Path,
        cache: pathlib.Path,
        hosts: Hosts | None,
        progress: Progress,
        notes: NoteLog,
    ) -> CheckpointEvaluator:
        """Open a checkpoint; results go to `out`, embeddings to `cache`."""
        size = {"image_size": settings.image_size, "max_patches": settings.max_patches}
        encoder = Encoder(path, canonicalize=settings.canonicalize, **size)
        places = {"name": name, "hosts": hosts, "progress": progress}
        embedder = TaskEmbedder(encoder, cache, **places)
        baselines = tuple(Baseline.open(kind, path, **size, cache=cache, **places) for kind in settings.baselines)
        return cls(
            name=name,
            path=os.fspath(path),
            settings=settings,
            out=out,
            encoder=encoder,
            embedder=embedder,
            notes=notes,
            baselines=baselines,
        )

    def evaluate_dataset(self, dataset: Dataset, source: Dataset | None, *, compute: bool) -> list[Unit]:
        """Return all units of a dataset; with `compute`, first compute those that are not finished."""
        units = []
        if dataset.lacks_template and self.encoder.embeds_texts and not self.stored_features:
            self.notes.note(
                f"{dataset.name}: class texts are {dataset.template!r}. For drawings and other pictures than photos, "
                "set the template of the dataset in evaluate.custom_datasets"
            )
        for task in self.tasks(dataset, source):
            by_method = {method: self._unit(task, dataset, method) for method in self._methods(task)}
            units += by_method.values()
            unfinished = {method: unit for method, unit in by_method.items() if compute and not self._is_finished(unit)}
            if unfinished:
                self._compute_units(unfinished, task, dataset)
            if task.name == "few_shot":
                units += [
                    each.evaluate(task, dataset, out=self.out, provenance=self._provenance(), compute=compute)
                    for each in self.baselines
                ]
        return units

    def tasks(self, dataset: Dataset, source: Dataset | None) -> Iterator[EvaluationTask]:
        """Yield the tasks of the settings that dataset and checkpoint support; log a note for each unsupported one."""
        self.embedder.clear()
        for name in self.settings.tasks:
            if name in NEED_TEXT and not self.encoder.embeds_texts:
                self.notes.note(f"{self.name} {self.without_texts}: task {name}, which needs class texts, is left out")
                continue
            task = build_task(
                name,
                dataset,
                shots=self.settings.shots,
                seeds=self.settings.seeds,
                few_examples=self.settings.few_examples,
                source=source,
                protocol=self.settings.support_protocol,
            )
            if task is None:
                self.notes.note(
                    f"{dataset.name} lacks the classes, images or queries that task {name} needs: it is left out"
                )
                continue
            for note in task.notes:
                self.notes.note(note)
            if not task.support_sets:
                self.notes.note(f"{dataset.name} has too few support images for task {name}")
                continue
            yield task

    def evaluate_retrieval(self, captioned: CaptionedImages, *, compute: bool) -> list[Unit]:
        """Return the retrieval unit of a source; with `compute`, first compute it if it is not finished.

        A checkpoint that embeds images only has none, which is logged.
        """
        if not self.encoder.embeds_texts:
            self.notes.note(f"{self.name} embeds images only: retrieval, which needs texts, is left out")
            return []
        depends_on = (self.encoder.fingerprint, captioned.fingerprint, captioned.caption)
        unit = Unit.create(self.name, captioned.name, "retrieval", depends_on=depends_on)
        if compute and not self._is_finished(unit):
            discard_results(self.out)
            result = captioned.evaluate(self.encoder, **self.embedder.options)
            write_text(self.out / EXAMPLES / f"{unit.key}.json", json.dumps(result.examples, ensure_ascii=False))
            unit.write(self.out, [row | self._provenance() | {"examples": unit.key} for row in result.rows])
            recalls = ", ".join(f"{row['metric']} {row['value']:.1%}" for row in result.rows if row["k"] == 10)
            logger.info(f"{captioned.name}: {recalls}")
        return [unit]

    def _is_finished(self, unit: Unit) -> bool:
        """Return whether a unit has its rows and the files that they name; otherwise, it is computed again."""
        rows = unit.read(self.out)
        return rows is not None and all(has_all_files(self.out, row) for row in rows[:1])

    def _methods(self, task: EvaluationTask) -> Sequence[str]:
        if task.name == "zero_shot":
            return ("zero_shot",)
        if task.name == "linear_probe":
            return ("linear_probe",)
        left_out = (
            [] if self.encoder.embeds_texts else [each for each in self.settings.methods if find(each).needs_text]
        )
        if left_out:
            self.notes.note(
                f"{self.name} {self.without_texts}: {', '.join(left_out)}, which need class texts, are left out"
            )
        if task.name == "open_set":
            together = [each for each in self.settings.methods if create(each).transductive]
            if together:
                self.notes.note(
                    f"task open_set: {', '.join(together)}, which would see the queries of unknown classes apart from "
                    "the rest, are left out"
                )
            left_out = [*left_out, *together]
        return [method for method in self.settings.methods if method not in left_out]

    def _unit(self, task: EvaluationTask, dataset: Dataset, method: str) -> Unit:
        support = "" if task.support_images is None else task.support_images.fingerprint
        drawn = [f"{each.shots} {each.seed} {fingerprint(each.rows, each.labels)}" for each in task.support_sets]
        depends_on = (
            self.encoder.fingerprint,
            support,
            *(query_set.fingerprint for query_set in task.query_sets),
            *drawn,
            *_searched_settings(method),
            *task.class_names,
            repr(task.templates),
            dataset.template,
            task.metric,
            repr(self.settings.logit_scale),
            repr(self.settings.transfer_from),
            *filter(None, [task.protocol.slug]),
        )
        return Unit.create(self.name, task.dataset, task.name, method, depends_on=depends_on)

    def _compute_units(self, units: Mapping[str, Unit], task: EvaluationTask, dataset: Dataset) -> None:
        """Compute units by method: embed once for all of them, then run the methods, on CPUs two at a time.

        Two threads keep two cores busy, because XLA compiles on one.
        """
        discard_results(self.out)
        began = time.monotonic()
        embeddings = self.embedder.embed(task, dataset)
        self._append_cost(task, "embedding", seconds=round(time.monotonic() - began, 3))
        embeddings = self.embedder.count_identical(task, embeddings)
        for name, number in embeddings.identical.items():
            if number and not self.stored_features:  # which were reported when they were opened
                self.notes.note(
                    f"{dataset.name} {name}".strip() + f": {number:,} query images are identical to images that "
                    "support sets are drawn from. They are counted as queries."
                )
        workers = _THREADS if jax.default_backend() == "cpu" else 1
        with concurrent.futures.ThreadPoolExecutor(workers) as threads:
            futures = [
                threads.submit(self._compute_unit, unit, task, dataset, method=method, embeddings=embeddings)
                for method, unit in units.items()
            ]
            for future in futures:
                logger.info(future.result())

    def _compute_unit(
        self, unit: Unit, task: EvaluationTask, dataset: Dataset, *, method: str, embeddings: TaskEmbeddings
    ) -> str:
        """Compute and write a unit; return a line for the log."""
        began = time.monotonic()
        queries = stack_queries(task.query_sets)
        support_sets = _zero_shot_draws(task) if method == "zero_shot" else task.support_sets
        counted = [
            np.concatenate([counted_queries(task, support_set, query_set) for query_set in task.query_sets])
            for support_set in support_sets
        ]
        rows: list[dict[str, Any]] = []
        predictions: list[np.ndarray] = []
        for variant, class_texts in embeddings.class_texts.items():
            found = run_grid(
                method,
                [embeddings.support[each.rows] for each in support_sets],
                [each.labels for each in support_sets],
                class_texts=class_texts,
                queries=embeddings.queries,
                groups=queries.groups,
                candidates=queries.candidates,
                logit_scale=self.settings.logit_scale,
                counted=counted,
                with_scores=task.name == "open_set",
            )
            for number, (support_set, chosen, predicted, counts) in enumerate(
                zip(support_sets, found.chosen, found.predictions, counted, strict=True)
            ):
                predicted[~counts] = EXCLUDED
                row = self._row(task, method, support_set)
                row["settings"] = _text_settings(task, variant) or dict(Grid(method).settings[int(chosen)])
                for query_set, span in zip(task.query_sets, queries.spans, strict=True):
                    if query_set.name == UNKNOWN and task.name == "open_set":
                        continue
                    accuracy = score(
                        predicted[span], queries.labels[span], candidates=query_set.candidates, metric=task.metric
                    )
                    place = {"case": len(predictions), "span": [span.start, span.stop]}
                    copies = {"identical_queries": embeddings.identical.get(query_set.name, 0)}
                    rows.append(row | {"question": query_set.name} | accuracy | copies | place)
                if task.name == "open_set":
                    scores = {PROBABILITY: found.log_odds[number], LOGIT: found.max_logits[number]}
                    is_known, counts = queries.groups == 0, predicted != EXCLUDED
                    far = far_scores(embeddings.support[support_set.rows], embeddings.queries)
                    masks = {"known": counts & is_known, "unknown": counts & ~is_known}
                    detected = detection_rows(scores, **masks, far=far)
                    rows += [row | each | {"classes": len(task.class_names)} for each in detected]
                predictions.append(predicted)
        files = self._write_artifacts(unit, task, embeddings, labels=queries.labels)
        context = self._provenance() | files | {"dataset_fingerprint": dataset.fingerprint}
        unit.write(self.out, [row | context for row in rows], predictions=np.stack(predictions))
        seconds = round(time.monotonic() - began, 3)
        self._append_cost(task, method, seconds=seconds, cases=len(support_sets), queries=len(queries.labels))
        return self._log_line(task, method, rows)

    def _write_artifacts(
        self, unit: Unit, task: EvaluationTask, embeddings: TaskEmbeddings, *, labels: np.ndarray
    ) -> dict[str, Any]:
        """Write the labels, for few-shot also thumbnails and distances at the most shots; return the file names."""
        files = {"predictions": unit.predictions_path(self.out).name, "labels": f"labels-{fingerprint(labels)}.npy"}
        save_array(self.out / PREDICTIONS / files["labels"], labels.astype(np.int32))
        if task.name != "few_shot":
            return files
        most = max(each.shots for each in task.support_sets)
        largest = [each.rows for each in task.support_sets if each.shots == most]
        key = fingerprint(
            self.encoder.image_fingerprint,
            task.support_images.fingerprint,
            task.query_sets[0].fingerprint,
            *(fingerprint(rows) for rows in largest),
        )
        supports = [embeddings.support[rows] for rows in largest]
        distances = write_distances(self.out, key, supports=supports, queries=embeddings.queries)
        classes = write_classes(self.out, task.class_names, images=task.support_images)
        return files | {"distances": distances, "classes_file": classes}

    def _row(self, task: EvaluationTask, method: str, support_set: SupportSet) -> dict[str, Any]:
        """Return the fields that the rows of a support set share, without the chosen settings."""
        zero_shot = method == "zero_shot"
        drawn = "" if task.support_images is None else "\n".join(map(task.support_images.key, support_set.rows))
        return {
            "task": task.name,
            "dataset": task.dataset,
            "method": method,
            "transductive": create(method).transductive,
            "shots": "all" if task.name == "linear_probe" else 0 if zero_shot else support_set.shots,
            "seed": support_set.seed,
            "metric": task.metric,
            "k": None,
            "selection": _selection(method, support_set.labels),
            "short": support_set.short and not zero_shot,
            "wrong_labels": 0 if zero_shot else support_set.wrong_labels,
            "examples_drawn": 0 if zero_shot else len(support_set.rows),
            "support": None
            if zero_shot
            else fingerprint(drawn, *([support_set.labels] if support_set.wrong_labels else [])),
            "logit_scale": self.settings.logit_scale,
        } | (task.protocol.fields if task.name != "zero_shot" else {})

    def _provenance(self) -> dict[str, Any]:
        return {
            "checkpoint": self.name,
            "checkpoint_path": self.path,
            "checkpoint_fingerprint": self.encoder.fingerprint,
            "dtype": self.encoder.settings.dtype,
            "platform": jax.default_backend(),
            "jax": importlib.metadata.version("jax"),
        } | ({"stored_features": True} if self.stored_features else {})

    def _append_cost(self, task: EvaluationTask, work: str, **cost: float) -> None:
        append_cost(self.out, checkpoint=self.name, dataset=task.dataset, task=task.name, what=work, **cost)

    def _log_line(self, task: EvaluationTask, method: str, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return the mean accuracy of each query set at the most shots."""
        most = rows[-1]["shots"]
        accuracies = []
        for query_set in task.query_sets:
            values = [row["value"] for row in rows if row["shots"] == most and row["question"] == query_set.name]
            if values:
                accuracies.append(f"{query_set.name} {np.mean(values):.1%}".strip())
        kind = " (transductive)" if create(method).transductive else ""
        at = f" at {most} shot{'' if most == 1 else 's'}" if most else ""
        return f"{self.name}, {task.dataset}, {task.name}: {method}{kind} {', '.join(accuracies)}{at}"


def _searched_settings(method: str) -> tuple[str, ...]:
    """Return everything that the selection of settings depends on: its procedure and every candidate in full."""
    grid = Grid(method)
    return (grid.selected_by, *(repr(settings_of(adapter)) for adapter in grid.adapters))


def _selection(method: str, labels: np.ndarray) -> str:
    """Return how the settings of a method are selected on a support set with these labels."""
    grid = Grid(method)
    if method == "zero_shot" or len(grid.settings) == 1:
        return "none"
    return grid.selected_by if len(np.unique(labels)) < len(labels) else DEFAULTS


def _text_settings(task: EvaluationTask, variant: str) -> dict[str, Any] | None:
    """Return the settings of a zero-shot row, None for other tasks."""
    if task.name != "zero_shot":
        return None
    if variant == STORED:
        return {"templates": variant}
    return {"templates": variant, "texts": len(task.templates[0]) if variant == "ensemble" else 1}


def _zero_shot_draws(task: EvaluationTask) -> tuple[SupportSet, ...]:
    """Return empty support sets: one per seed in a pool, where the queries differ by seed, else a single one."""
    pooled = any(query_set.pool_rows is not None for query_set in task.query_sets)
    first: dict[int, SupportSet] = {}
    for support_set in task.support_sets:
        first.setdefault(support_set.seed if pooled else 0, support_set)
    return tuple(dataclasses.replace(each, rows=each.rows[:0], labels=each.labels[:0]) for each in first.values())

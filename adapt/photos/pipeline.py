"""Sorting a person's pictures into classes, of which a folder each has a few examples: `launch.py adapt`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from adapt.adapters.base import Classifier
from adapt.embedding.cache import embed_classes
from adapt.embedding.encoder import Encoder
from adapt.model_selection.calibration import Calibration, factor_of_examples, factor_of_left_out, probabilities
from adapt.model_selection.methods import AUTO, Candidate, Choice, check_method, choose
from adapt.photos.folders import (
    Embedded,
    Progress,
    check_finite,
    class_folders,
    embed_folder,
    in_class_folders,
    readable,
)
from adapt.photos.outcome import Outcome
from adapt.photos.outliers import far_below, nearest
from adapt.photos.page import write_page
from data.sources.image_folders import ClassFolders, ImageFiles
from foundation.atomic import write_text

logger = logging.getLogger(__name__)

DEFAULT_TEMPLATE = "a photo of a {}."
PREDICTIONS_FILE, LEFT_OUT_FILE, PAGE_FILE, CLASSES_FILE = (
    "predictions.csv",
    "left_out.csv",
    "predictions.html",
    "classes.json",
)
PREDICTION_FIELDS = ("path", "class", "probability", "nearest", "cosine", "far")

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked: examples in class folders in `support`, pictures anywhere in `query`, and where answers go.

    `templates` make texts of the class names; without any, pictures alone decide.
    """

    support: str
    query: str
    out: pathlib.Path
    method: str = AUTO
    templates: tuple[str, ...] = (DEFAULT_TEMPLATE,)

    def check(self) -> None:
        """Raises `ValueError` or `OSError` for what cannot be done; no checkpoint is needed to know that."""
        check_method(self.method, text=bool(self.templates))
        for template in self.templates:
            _check_template(template)
        there = next((path for path in (self.out, *self.out.parents) if path.exists()), None)
        if there is not None and not there.is_dir():
            raise FileExistsError(f"{there} is a file; name a folder as --out")
        for name, folder in (("support", self.support), ("query", self.query)):
            if not os.path.isdir(folder):
                raise FileNotFoundError(f"there is no folder {folder}; name one as --{name}")
            if self.out.exists() and os.path.samefile(folder, self.out):
                raise ValueError(f"{folder} is the --{name} already; name another folder as --out")
        _check_classes(ClassFolders(self.support).class_names, self.support)
        ImageFiles(self.query)


def sort_photos(encoder: Encoder, task: Task, *, progress: Progress = lambda name, done, total: None) -> Outcome:
    """Classifies the pictures of a task and writes its files; returns what was found.

    `task.out` gets `predictions.csv`, `left_out.csv`, `predictions.html` and `classifier/`, which `adapt.load` opens,
    with `classes.json` in it; in `embeddings/` are those of the pictures, so that they are embedded once, also when a
    run is stopped. `progress(name, done, total)` is called after every batch. Raises `ValueError` or `OSError` as
    `Task.check` does, where the checkpoint has no tokenizer and one is needed, where it is broken, and where no two
    classes have a readable picture.
    """
    task.check()
    if task.templates:
        _check_tokenizer(encoder)
    keep = {"out": task.out, "progress": progress}
    support = in_class_folders(embed_folder(encoder, task.support, "support", **keep))
    query = embed_folder(encoder, task.query, "query", **keep)
    left_out = list(dict.fromkeys(support.left_out + query.left_out))
    write_text(task.out / LEFT_OUT_FILE, _table(("path", "reason"), left_out))
    folders = [path.partition("/")[0] for path in support.paths]
    class_names = sorted(set(folders))
    for name in sorted(set(class_folders(task.support, task.out)) - set(class_names)):
        logger.info(f"class folder {readable(name)} holds no readable picture; the class is left out")
    _check_classes(class_names, task.support)
    if not query.paths:
        raise ValueError(f"none of the {len(query.left_out)} files in {task.query} is a readable picture")
    labels = np.array([class_names.index(folder) for folder in folders])
    logger.info(
        f"{len(support.paths)} examples of {len(class_names)} classes, {len(query.paths)} pictures to sort; "
        f"{len(left_out)} files left out, see {task.out / LEFT_OUT_FILE}"
    )
    outcome = _classify(encoder, task, class_names, support, labels, query)
    write_text(task.out / PREDICTIONS_FILE, _table(PREDICTION_FIELDS, _predictions(outcome)))
    page = write_page(outcome, task.out / PAGE_FILE)
    logger.info(
        f"{len(query.paths)} predictions in {task.out / PREDICTIONS_FILE}, {int(outcome.far.sum())} far from every "
        f"example; pictures in {page}"
    )
    return outcome


def _classify(
    encoder: Encoder,
    task: Task,
    class_names: list[str],
    support: Embedded,
    labels: np.ndarray,
    query: Embedded,
) -> Outcome:
    text = _embed_classes(encoder, task, class_names) if task.templates else None
    arguments = {"num_classes": len(class_names), "class_text_features": text}
    if np.bincount(labels).max() < 2:
        logger.info(
            "no class has two examples, so none can be left out to compare methods or settings: defaults are used"
        )
    choice = choose(task.method, support.features, labels, tell=lambda one: logger.info(describe(one)), **arguments)
    chosen = choice.chosen
    logger.info(f"taken: {chosen.method} ({chosen.selected_by})")
    classifier = chosen.adapter.fit(support.features, labels, **arguments)
    logits = np.asarray(classifier(query.features))
    check_finite(logits, query.paths, f"logits of {chosen.method}")
    calibration = _calibrate(choice, classifier, labels)
    numbers, cosines = nearest(query.features, support.features)
    limit = far_below(support.features)
    classifier.save(task.out / "classifier")
    described = {
        "classes": [readable(name) for name in class_names],
        "templates": list(task.templates),
        "method": chosen.method,
        "selected_by": chosen.selected_by,
        "left_out_accuracy": None if np.isnan(chosen.accuracy) else round(chosen.accuracy, 6),
        "checkpoint": encoder.name,
        "checkpoint_fingerprint": encoder.fingerprint if task.templates else encoder.image_fingerprint,
        "calibration": calibration.factor,
        "calibrated_on": calibration.source,
        "far_below": limit,
    }
    content = json.dumps(described, ensure_ascii=False, indent=2) + "\n"
    write_text(task.out / "classifier" / CLASSES_FILE, content)
    return Outcome(
        class_names=[readable(name) for name in class_names],
        support=support,
        labels=labels,
        query=query,
        choice=choice,
        calibration=calibration,
        probabilities=probabilities(logits, calibration.factor),
        nearest=numbers,
        cosines=cosines,
        far_below=limit,
    )


def _calibrate(choice: Choice, classifier: Classifier, labels: np.ndarray) -> Calibration:
    """Returns τ by the examples that were left out, but not those that are alone in their class, of which nothing is
    known then; where none was left out, 1 for logits that have the scale of texts, or by the examples themselves."""
    several = np.bincount(labels)[labels] > 1
    if choice.left_out is not None:
        factor = factor_of_left_out(choice.left_out[several], labels[several])
        return Calibration(factor, "examples that were left out")
    if classifier.support.class_text_features is not None and classifier.adapter.text_logits:
        return Calibration(1.0, "the scale of the text logits")
    factor = factor_of_examples(np.asarray(classifier(classifier.support.features)), labels)
    return Calibration(factor, "the examples themselves")


def describe(candidate: Candidate) -> str:
    """Returns a line of the table that a method is chosen from."""
    if candidate.error is not None:
        return f"{candidate.method:<12}  cannot be used: {candidate.error}"
    right = " – " if np.isnan(candidate.accuracy) else f"{candidate.accuracy:.1%}"
    how = f"{candidate.selected_by}, {candidate.tried} tried" if candidate.tried else candidate.selected_by
    return f"{candidate.method:<12} {right:>6} right  {candidate.settings or 'no settings'}  ({how})"


def _embed_classes(encoder: Encoder, task: Task, class_names: list[str]) -> np.ndarray:
    texts = [readable(name).replace("_", " ") for name in class_names]
    features = embed_classes(encoder, texts, [task.templates] * len(texts), task.out / "embeddings")
    check_finite(features, class_names, "text embedding")
    return features


def _check_classes(class_names: list[str], root: str) -> None:
    if len(class_names) < 2:
        found = f"only {readable(class_names[0])} has" if class_names else "no class has"
        raise ValueError(
            f"{found} readable pictures in {root}; there is nothing to choose between, give two or more classes a "
            "folder each"
        )


def _check_template(template: str) -> None:
    try:
        whole = "\0" in template.format("\0")
    except (ValueError, IndexError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(
            f"template {template!r} has no {{}} for the class name; give one as {DEFAULT_TEMPLATE!r}, or none alone"
        )


def _check_tokenizer(encoder: Encoder) -> None:
    try:
        _ = encoder.tokenizer
    except (ValueError, OSError) as error:
        reason = str(error).partition("\n")[0].partition(";")[0]
        raise ValueError(
            f"class names need a tokenizer ({reason}); name one by --tokenizer=FOLDER, or work by pictures alone with "
            "--template=none"
        ) from error


def _predictions(outcome: Outcome) -> Iterator[tuple[str, ...]]:
    """Yields the `PREDICTION_FIELDS` of each picture."""
    certainty, far = outcome.probabilities.max(axis=1), outcome.far
    for number, (path, label) in enumerate(zip(outcome.query.paths, outcome.predicted, strict=True)):
        yield (
            readable(path),
            outcome.class_names[label],
            f"{certainty[number]:.6f}",
            readable(outcome.support.paths[outcome.nearest[number]]),
            f"{outcome.cosines[number]:.6f}",
            "yes" if far[number] else "no",
        )


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    content = io.StringIO()
    csv.writer(content).writerows([header, *rows])
    return content.getvalue()

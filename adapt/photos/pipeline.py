"""Classify a folder of images, given a folder with a few support images per class: `launch.py adapt`."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from adapt.adapters.base import Classifier
from adapt.adapters.registry import METHODS, TRAINING_FREE
from adapt.embedding.cache import Progress, embed_classes
from adapt.embedding.encoder import Encoder
from adapt.embedding.identical_images import find_identical
from adapt.model_selection.calibration import Calibration, fit_on_left_out, fit_on_support, probabilities
from adapt.model_selection.methods import AUTO, Candidate, MethodChoice, check_method, choose_method
from adapt.photos.folders import (
    EmbeddedFolder,
    check_finite,
    class_folders,
    embed_folder,
    in_class_folders,
    readable,
)
from adapt.photos.outliers import far_threshold, find_nearest
from adapt.photos.page import write_page
from adapt.photos.sorting_result import SortingResult
from data.sources.image_folders import ClassFolders, ImageFiles
from data.sources.split_folders import class_pattern, training_folder
from foundation.files.atomic import write_json, write_text
from foundation.files.csv_text import csv_text
from foundation.files.folder_lock import lock_folder
from foundation.files.output_folder import check_output_folder
from foundation.suggestions import nearest_path

logger = logging.getLogger(__name__)

DEFAULT_TEMPLATE = "a photo of a {}."
PREDICTIONS_FILE, LEFT_OUT_FILE, PAGE_FILE, CLASSES_FILE = (
    "predictions.csv",
    "left_out.csv",
    "predictions.html",
    "classes.json",
)
PREDICTION_FIELDS = ("path", "class", "probability", "nearest", "cosine", "far")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortingTask:
    """The folders and options of a run of `sort_photos`.

    support: a folder of class folders with support images, or of splits: then those of the training split are used.
    query: a folder with the images to classify, at any depth.
    out: the folder for the results.
    method: an adapter, or "auto" to compare all training-free ones.
    templates: texts with `{}` for the class name; without any, classification is by images alone. By default
        `DEFAULT_TEMPLATE`, or none for a checkpoint that embeds images only.
    """

    support: str
    query: str
    out: pathlib.Path
    method: str = AUTO
    templates: tuple[str, ...] | None = None

    def check(self) -> None:
        """Raise `ValueError` or `OSError` for options that cannot work, before a checkpoint is opened."""
        check_method(self.method, text=self.templates != ())
        check_output_folder(self.out)
        for template in self.templates or ():
            _check_template(template)
        existing = next((path for path in (self.out, *self.out.parents) if path.exists()), None)
        if existing is not None and not existing.is_dir():
            raise FileExistsError(f"{existing} is a file. Set --out to a folder.")
        pattern = class_pattern(self.support)
        for name, folder in (("support", pattern.path if pattern else self.support), ("query", self.query)):
            if not os.path.isdir(folder):
                raise FileNotFoundError(
                    f"folder {folder} does not exist.{nearest_path(folder)} Set --{name} to an existing folder."
                )
            if self.out.exists() and os.path.samefile(folder, self.out):
                raise ValueError(f"--out and --{name} are both {folder}. Set --out to another folder.")
        support = training_folder(self.support)
        _check_classes(ClassFolders(support.path, support.split).class_names, self.support)
        ImageFiles(self.query)


def _no_progress(name: str, done: int, total: int) -> None:
    pass


def sort_photos(encoder: Encoder, task: SortingTask, *, progress: Progress = _no_progress) -> SortingResult:
    """Classify the query images of a task, write the results to `task.out` and return them.

    Files: `predictions.csv`, `left_out.csv`, `predictions.html`, and the folder `classifier/`, which `adapt.load` opens
    and which has `classes.json`. `embeddings/` caches the embeddings, also those of an interrupted run.
    `progress(name, done, total)` is called after every batch.

    Raises `ValueError` or `OSError` as `SortingTask.check` does, and where templates or the method need texts but the
    checkpoint embeds images only or has no tokenizer, where its outputs are not finite, where fewer than two classes
    have a readable image, and where another process sorts into `task.out`.
    """
    task.check()
    folder = training_folder(task.support)
    folder.log()
    task = dataclasses.replace(task, support=folder.path, templates=_choose_templates(encoder, task))
    if task.templates:
        _check_tokenizer(encoder)
    with lock_folder(task.out, ".adapt.lock", job="adapt job", option="--out"):
        return _sort(encoder, task, progress, split=folder.split)


def _sort(encoder: Encoder, task: SortingTask, progress: Progress, *, split: str) -> SortingResult:
    options = {"out": task.out, "progress": progress}
    support = in_class_folders(embed_folder(encoder, task.support, name="support", **options), split)
    query = embed_folder(encoder, task.query, name="query", **options)
    left_out = list(dict.fromkeys(support.left_out + query.left_out))
    write_text(task.out / LEFT_OUT_FILE, csv_text(("path", "reason"), left_out))
    folders = [path.partition("/")[0] for path in support.paths]
    class_names = sorted(set(folders))
    for name in sorted(set(class_folders(task.support, out=task.out)) - set(class_names)):
        logger.info(f"class folder {readable(name)} has no readable image and is left out")
    _check_classes(class_names, task.support)
    if not query.paths:
        raise ValueError(
            f"{task.query} has no readable image ({len(query.left_out)} unreadable). {task.out / LEFT_OUT_FILE} lists "
            "the reasons."
        )
    labels = np.array([class_names.index(folder) for folder in folders])
    logger.info(
        f"{len(support.paths)} support images of {len(class_names)} classes, {len(query.paths)} images to classify; "
        f"{len(left_out)} files left out, see {task.out / LEFT_OUT_FILE}"
    )
    _report_identical_support(support, labels)
    _report_identical(support, query)
    result = _classify(encoder, task, class_names=class_names, support=support, labels=labels, query=query)
    write_text(task.out / PREDICTIONS_FILE, csv_text(PREDICTION_FIELDS, _predictions(result)))
    page = write_page(result, task.out / PAGE_FILE)
    logger.info(
        f"{len(query.paths)} predictions in {task.out / PREDICTIONS_FILE}, {int(result.far.sum())} far from every "
        f"support image; overview in {page}"
    )
    return result


def _report_identical_support(support: EmbeddedFolder, labels: np.ndarray) -> None:
    """Log how many support images are copies of others: of another class, whose label must be wrong, or of their own.

    Leave-one-out leaves the other copy in the support set, so that its accuracy is too low or too high.
    """
    rows = np.arange(len(labels))
    found = find_identical(support.features, support.features, support.image, support.image, own_rows=rows)
    copies = found >= 0
    for what, members in (
        ("in another class: remove the wrong ones", copies & (labels[found] != labels)),
        ("in their class, which makes the accuracy on held-out images too high", copies & (labels[found] == labels)),
    ):
        if members.any():
            first = int(np.flatnonzero(members)[0])
            logger.warning(
                f"{int(members.sum())} support images have an identical image {what}; the first is "
                f"{readable(support.paths[first])}, identical to {readable(support.paths[found[first]])}"
            )


def _report_identical(support: EmbeddedFolder, query: EmbeddedFolder) -> None:
    """Log how many images to classify are copies of support images."""
    found = find_identical(support.features, query.features, support.image, query.image)
    copies = np.flatnonzero(found >= 0)
    if len(copies):
        names = (query.paths[copies[0]], support.paths[found[copies[0]]])
        logger.info(
            f"note: {len(copies)} of {len(query.paths)} images to classify are identical to a support image, first "
            f"{readable(names[0])} to {readable(names[1])}"
        )


def _classify(
    encoder: Encoder,
    task: SortingTask,
    *,
    class_names: list[str],
    support: EmbeddedFolder,
    labels: np.ndarray,
    query: EmbeddedFolder,
) -> SortingResult:
    """Choose a method, fit and save the classifier, and classify the query images."""
    class_texts = _embed_class_names(encoder, task, class_names) if task.templates else None
    arguments = {"num_classes": len(class_names), "class_text_features": class_texts}
    if np.bincount(labels).max() < 2:
        logger.info(
            "no class has two support images, so methods and settings cannot be compared on held-out images; defaults "
            "are used"
        )
    choice = choose_method(
        task.method,
        support.features,
        labels,
        on_candidate=lambda candidate: logger.info(describe(candidate)),
        **arguments,
    )
    chosen = choice.chosen
    logger.info(f"selected: {chosen.method} ({chosen.selected_by})")
    classifier = chosen.adapter.fit(support.features, labels, **arguments)
    logits = np.asarray(classifier(query.features))
    check_finite(logits, query.paths, f"rows of logits of {chosen.method}")
    calibration = _calibrate(choice, classifier, labels)
    nearest = find_nearest(query.features, support.features)
    result = SortingResult(
        class_names=[readable(name) for name in class_names],
        support=support,
        labels=labels,
        query=query,
        choice=choice,
        calibration=calibration,
        probabilities=probabilities(logits, calibration.factor),
        nearest=nearest.rows,
        cosines=nearest.cosines,
        far_threshold=far_threshold(support.features),
    )
    classifier.save(task.out / "classifier")
    _write_classes(encoder, task, result)
    return result


def _write_classes(encoder: Encoder, task: SortingTask, result: SortingResult) -> None:
    """Write the class names, the checkpoint and the calibration next to the classifier."""
    chosen = result.choice.chosen
    write_json(
        task.out / "classifier" / CLASSES_FILE,
        {
            "classes": result.class_names,
            "templates": list(task.templates),
            "method": chosen.method,
            "selected_by": chosen.selected_by,
            "left_out_accuracy": None if np.isnan(chosen.accuracy) else round(chosen.accuracy, 6),
            "checkpoint": encoder.name,
            "checkpoint_fingerprint": encoder.fingerprint if task.templates else encoder.image_fingerprint,
            "calibration": result.calibration.factor,
            "calibrated_on": result.calibration.source,
            "far_below": result.far_threshold,
        },
    )


def _calibrate(choice: MethodChoice, classifier: Classifier, labels: np.ndarray) -> Calibration:
    """Return the factor τ of the logits.

    It is fitted on held-out support images of classes with two or more: without its only image, a class is unknown to
    the classifier. If nothing can be held out, τ is 1 for logits on the scale of text logits, and otherwise it is
    fitted on the support images themselves.
    """
    several = np.bincount(labels)[labels] > 1
    if choice.left_out_logits is not None:
        factor = fit_on_left_out(choice.left_out_logits[several], labels[several])
        return Calibration(factor, "held-out support images")
    if classifier.support.class_text_features is not None and classifier.adapter.text_logits:
        return Calibration(1.0, "the scale of the text logits")
    factor = fit_on_support(np.asarray(classifier(classifier.support.features)), labels)
    return Calibration(factor, "the support images themselves")


def describe(candidate: Candidate) -> str:
    """Return a line of the log that compares the methods."""
    if candidate.error is not None:
        return f"{candidate.method:<12}  cannot be used: {candidate.error}"
    accuracy = " – " if np.isnan(candidate.accuracy) else f"{candidate.accuracy:.1%}"
    how = f"{candidate.selected_by}, {candidate.tried} tried" if candidate.tried else candidate.selected_by
    return f"{candidate.method:<12} {accuracy:>6} correct  {candidate.settings or 'no settings'}  ({how})"


def _embed_class_names(encoder: Encoder, task: SortingTask, class_names: list[str]) -> np.ndarray:
    texts = [readable(name).replace("_", " ") for name in class_names]
    features = embed_classes(encoder, texts, [task.templates] * len(texts), task.out / "embeddings")
    check_finite(features, class_names, "text embeddings")
    return features


def _check_classes(class_names: list[str], root: str) -> None:
    if len(class_names) < 2:
        found = f"only {readable(class_names[0])} has" if class_names else "no class has"
        raise ValueError(
            f"{found} readable images in {root}, but classification needs two or more classes. Add a folder of images "
            "for each class."
        )


def _check_template(template: str) -> None:
    try:
        valid = "\0" in template.format("\0")
    except (ValueError, IndexError, KeyError, AttributeError):
        valid = False
    if not valid:
        raise ValueError(
            f"template {template!r} has no {{}} for the class name. Write for example {DEFAULT_TEMPLATE!r}, or only "
            "--template=none to ignore the class names."
        )


def _choose_templates(encoder: Encoder, task: SortingTask) -> tuple[str, ...]:
    """Return the templates of a task; raise `ValueError` if a template or the method needs texts that there are not."""
    if encoder.embeds_texts:
        return (DEFAULT_TEMPLATE,) if task.templates is None else task.templates
    if task.templates:
        raise ValueError(
            f"{encoder.name} embeds images only, so --template={task.templates[0]} cannot be used. Leave it out, or "
            "use a checkpoint that embeds texts, too."
        )
    if task.method != AUTO and METHODS[task.method].needs_text:
        without = ", ".join(name for name in TRAINING_FREE if not METHODS[name].needs_text)
        raise ValueError(
            f"{encoder.name} embeds images only, and {task.method} needs class texts. Use another --method ({AUTO}, "
            f"{without}), or a checkpoint that embeds texts, too."
        )
    logger.info(f"{encoder.name} embeds images only: class names are not used")
    return ()


def _check_tokenizer(encoder: Encoder) -> None:
    try:
        _ = encoder.tokenizer
    except (ValueError, OSError) as error:
        reason = str(error).partition("\n")[0].partition(";")[0]
        raise ValueError(
            f"class names need a tokenizer ({reason}). Set --tokenizer=FOLDER, or classify by images alone with "
            "--template=none."
        ) from error


def _predictions(result: SortingResult) -> Iterator[tuple[str, ...]]:
    """Yield the `PREDICTION_FIELDS` of each query image."""
    confidence, far = result.confidence, result.far
    for row, (path, label) in enumerate(zip(result.query.paths, result.predicted, strict=True)):
        yield (
            readable(path),
            result.class_names[label],
            f"{confidence[row]:.6f}",
            readable(result.support.paths[result.nearest[row]]),
            f"{result.cosines[row]:.6f}",
            "yes" if far[row] else "no",
        )

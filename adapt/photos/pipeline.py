"""Classify a folder of images, given a folder with a few support images per class: `launch.py adapt`."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib

import numpy as np

from adapt.adapters.registry import METHODS, TRAINING_FREE
from adapt.embedding.cache import Progress, embed_classes
from adapt.embedding.encoder import Encoder
from adapt.embedding.identical_images import find_identical
from adapt.model_selection.methods import AUTO, check_method
from adapt.photos.classification import (
    PREDICTIONS_FILE,
    choose_and_log,
    classify,
    report_identical_support,
    write_predictions,
)
from adapt.photos.folders import (
    EmbeddedFolder,
    check_finite,
    class_folders,
    embed_folder,
    in_class_folders,
    readable,
)
from adapt.photos.page import write_page
from adapt.photos.sorted_folders import Placement, report_sorted, sort_into_folders
from adapt.photos.sorting_result import SortingResult
from adapt.photos.templates import check_template, choose_templates
from data.sources.image_folders import ClassFolders, ImageFiles
from data.sources.split_folders import class_pattern, training_folder
from foundation.files.atomic import write_text
from foundation.files.csv_text import csv_text
from foundation.files.folder_lock import lock_folder
from foundation.files.output_folder import check_output_folder
from foundation.suggestions import nearest_path

logger = logging.getLogger(__name__)

LEFT_OUT_FILE, PAGE_FILE = "left_out.csv", "predictions.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortingTask:
    """The folders and options of a run of `sort_photos`.

    support: a folder of class folders with support images, or of splits: then those of the training split are used.
    query: a folder with the images to classify, at any depth.
    out: the folder for the results.
    method: an adapter, or "auto" to compare all training-free ones.
    templates: texts with `{}` for the class name; without any, classification is by images alone. By default
        `DEFAULT_TEMPLATE`, or none for a checkpoint that embeds images only.
    placement: "copy" or "link" to sort the images into a folder per class in `out`, or None.
    """

    support: str
    query: str
    out: pathlib.Path
    method: str = AUTO
    templates: tuple[str, ...] | None = None
    placement: Placement | None = None

    def check(self) -> None:
        """Raise `ValueError` or `OSError` for options that cannot work, before a checkpoint is opened."""
        check_method(self.method, text=self.templates != ())
        check_output_folder(self.out)
        for template in self.templates or ():
            check_template(template)
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
            if self.placement and pathlib.Path(folder).resolve() in self.out.resolve().parents:
                raise ValueError(
                    f"--out={self.out} is in --{name}={folder}, so the next run would read the images that "
                    f"--{self.placement} puts there. Set --out to a folder elsewhere."
                )
        support = training_folder(self.support)
        _check_classes(ClassFolders(support.path, support.split).class_names, self.support)
        ImageFiles(self.query)


def _no_progress(name: str, done: int, total: int) -> None:
    pass


def sort_photos(encoder: Encoder, task: SortingTask, *, progress: Progress = _no_progress) -> SortingResult:
    """Classify the query images of a task, write the results to `task.out` and return them.

    Files: `predictions.csv`, `left_out.csv`, `predictions.html`, and the folder `classifier/`, which `adapt.load` opens
    and which has `classes.json`. `embeddings/` caches the embeddings, also those of an interrupted run.
    With `task.placement`, also the folders that
    `sort_into_folders` describes. `.thumbnails/` has the pictures of the page. `progress(name, done, total)` is called
    after every batch.

    Raises `ValueError` or `OSError` as `SortingTask.check` does, and where templates or the method need texts but the
    checkpoint embeds images only or has no tokenizer, where its outputs are not finite, where fewer than two classes
    have a readable image, and where another process sorts into `task.out`.
    """
    task.check()
    folder = training_folder(task.support)
    folder.log()
    _check_needs_text(encoder, task.method)
    task = dataclasses.replace(task, support=folder.path, templates=choose_templates(encoder, task.templates))
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
    rows = np.arange(len(labels))
    copies = find_identical(support.features, support.features, support.image, support.image, own_rows=rows)
    report_identical_support(copies, support, labels)
    _report_identical(support, query)
    class_texts = _embed_class_names(encoder, task, class_names) if task.templates else None
    task_data = {"class_names": class_names, "support": support, "labels": labels, "class_texts": class_texts}
    result = classify(
        choose_and_log(task.method, **task_data),
        **task_data,
        query=query,
        out=task.out,
        described={
            "templates": list(task.templates),
            "checkpoint": encoder.name,
            "checkpoint_fingerprint": encoder.fingerprint if task.templates else encoder.image_fingerprint,
        },
    )
    write_predictions(result, task.out)
    if task.placement:
        report_sorted(sort_into_folders(result, task.out, placement=task.placement, progress=progress), task.out)
    page = write_page(result, task.out / PAGE_FILE, progress=progress)
    logger.info(
        f"{len(query.paths)} predictions in {task.out / PREDICTIONS_FILE}, {int(result.far.sum())} far from every "
        f"support image; overview in {page}"
    )
    return result


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


def _check_needs_text(encoder: Encoder, method: str) -> None:
    """Raise `ValueError` if the method needs class texts and the checkpoint embeds images only."""
    if not encoder.embeds_texts and method != AUTO and METHODS[method].needs_text:
        without = ", ".join(name for name in TRAINING_FREE if not METHODS[name].needs_text)
        raise ValueError(
            f"{encoder.name} embeds images only, and {method} needs class texts. Use another --method ({AUTO}, "
            f"{without}), or a checkpoint that embeds texts, too."
        )

"""Classify stored features, given stored features with labels: `launch.py adapt --features`."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib

import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.adapters.registry import METHODS, TRAINING_FREE
from adapt.model_selection.methods import AUTO, check_method
from adapt.photos.classification import (
    PREDICTIONS_FILE,
    choose_and_log,
    classify,
    report_identical_support,
    write_predictions,
)
from adapt.photos.folders import EmbeddedFolder
from adapt.photos.sorting_result import SortingResult
from data.features.feature_files import split_parts
from data.features.identical_rows import find_identical_rows
from data.features.labelled import FeatureDataset, open_labelled_features
from data.features.rows import FeatureRows
from foundation.files.folder_lock import lock_folder
from foundation.files.output_folder import check_output_folder

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSortingTask:
    """The features and options of a run of `sort_features`.

    features: a data set of stored features (`data.features.labelled`), whose support rows have labels; `:SUPPORT:QUERY`
        at the end names its parts.
    query: another file or folder with the rows to classify, instead of the query rows of the data set.
    out: the folder for the results.
    method: an adapter, or "auto" to compare all training-free ones.
    with_texts: whether the text features of the data set are used, if it has any.
    """

    features: str
    query: str | None = None
    out: pathlib.Path
    method: str = AUTO
    with_texts: bool = True


def sort_features(task: FeatureSortingTask) -> SortingResult:
    """Classify the query rows of a task, write `predictions.csv` and `classifier/` to `task.out`; return the results.

    Rows are named by their ids, or by their numbers in the file. There is no page: stored features have no pictures.
    Raises `ValueError` or `OSError` for features and options that cannot work, and where another process sorts into
    `task.out`.
    """
    check_method(task.method, text=task.with_texts)
    check_output_folder(task.out)
    path, parts = split_parts(task.features)
    dataset = open_labelled_features(
        path,
        name=pathlib.Path(os.path.abspath(path)).stem,
        parts=parts,
        query=task.query,
        labelled_query=False,
        with_texts=task.with_texts,
    )
    if dataset.support is None or dataset.query is None:
        lacking, option = ("support", "") if dataset.support is None else ("query", ", or set --query to their file")
        raise ValueError(f"{task.features} has no {lacking} features. Add {lacking}.npy{option}.")
    _check_texts(task, dataset)
    for note in dataset.notes:
        logger.info(f"note: {note}")
    with lock_folder(task.out, ".adapt.lock", job="adapt job", option="--out"):
        return _sort(task, dataset)


def _sort(task: FeatureSortingTask, dataset: FeatureDataset) -> SortingResult:
    support, query = (_as_embedded(dataset.path, rows) for rows in (dataset.support, dataset.query))
    labels = dataset.support.labels
    logger.info(
        f"{len(labels):,} support rows of {len(dataset.class_names):,} classes, {len(query.paths):,} rows to classify"
    )
    own = np.arange(len(labels))
    copies = find_identical_rows(dataset.support.features, dataset.support.features, own_rows=own)
    report_identical_support(copies, support, labels)
    class_names = list(dataset.class_names)
    task_data = {"class_names": class_names, "support": support, "labels": labels, "class_texts": dataset.texts}
    result = classify(
        choose_and_log(task.method, **task_data),
        **task_data,
        query=query,
        out=task.out,
        described={
            "templates": [],
            "checkpoint": dataset.encoder.get("name"),
            "checkpoint_fingerprint": dataset.encoder.get("fingerprint"),
            "features": os.fspath(task.features),
        },
    )
    write_predictions(result, task.out)
    logger.info(
        f"{len(query.paths):,} predictions in {task.out / PREDICTIONS_FILE}, {int(result.far.sum()):,} far from every "
        "support row; there is no page, as stored features have no pictures"
    )
    return result


def _check_texts(task: FeatureSortingTask, dataset: FeatureDataset) -> None:
    """Raise `ValueError` if the method needs class texts and there are none."""
    if dataset.texts is None and task.method != AUTO and METHODS[task.method].needs_text:
        without = ", ".join(name for name in TRAINING_FREE if not METHODS[name].needs_text)
        raise ValueError(
            f"{task.features} has no text features, and {task.method} needs class texts. Use another --method ({AUTO}, "
            f"{without}), or add texts.npy."
        )


def _as_embedded(path: str, rows: FeatureRows) -> EmbeddedFolder:
    return EmbeddedFolder(path, list(rows.ids), normalize_numpy(rows.features), [])

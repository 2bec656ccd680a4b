"""Write the result of a session: sorted folders, predictions, the classifier, and a support set for other jobs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from adapt.adapters.registry import create
from adapt.labelling.classifier.model import PicturePredictions
from adapt.labelling.session import LabellingSession
from adapt.model_selection.methods import Candidate, MethodChoice
from adapt.photos.classification import PREDICTIONS_FILE, classify, write_predictions
from adapt.photos.folders import EmbeddedFolder
from adapt.photos.sorted_folders import CLASSES_FOLDER, Placement, Places, sort_into_folders
from adapt.photos.sorting_result import SortingResult

SUPPORT_FOLDER = "support"
_SUPPORT = Places(classes=SUPPORT_FOLDER, far="support_far", record="support_files.jsonl")


class Exported(NamedTuple):
    """The numbers of pictures that were sorted, of those far from all labelled ones, and of those in the support set.

    `left_out` are the pictures that cannot be read, or not yet. `files` are what was written, by its path in the output
    folder, with a description. `alone` are files there that were left alone, because they are not this session's or
    have changed since.
    """

    pictures: int
    far: int
    labelled: int
    left_out: int
    files: dict[str, str]
    alone: int


def export_session(
    session: LabellingSession,
    *,
    placement: Placement,
    described: Mapping[str, Any],
    progress: Callable[[str, int, int], None],
) -> Exported:
    """Write the results of a session to its folder; existing results of an earlier export are updated.

    `classes/NAME` (and `far/NAME`) have all embedded pictures, labelled ones in the class of their label, and
    `support/NAME` only these; `predictions.csv` and `classifier/` are those of `launch.py adapt`, by the method that
    the page shows. `described` has the fields of `classes.json` that tell where the features are from.

    Pictures that have vanished or are not embedded yet are left out. Raises `ValueError` before two classes have
    labels.
    """
    for number in session.numbers.tolist():
        if not os.path.exists(session.pictures.file(number)):
            session.add_bad(number, f"{session.pictures.names[number]} is no longer in the folder")
    with session.lock:
        predictions = session.predictions
        numbers, bad = session.predicted_numbers.copy(), dict(session.bad)
    if predictions is None or len(np.unique(predictions.labels)) < 2:
        raise ValueError("there are labels of fewer than two classes. Label pictures of another class first.")
    everything = _classify(session, predictions, numbers, described)
    present = ~np.isin(numbers, list(bad))
    result = _take(everything, np.flatnonzero(present))
    labelled = _take(everything, predictions.rows[present[predictions.rows]])
    write_predictions(result, session.out)
    done = sort_into_folders(result, session.out, placement=placement, progress=progress)
    support = sort_into_folders(labelled, session.out, placement=placement, progress=progress, places=_SUPPORT)
    return Exported(
        pictures=len(result.query.paths),
        far=int(result.far.sum()),
        labelled=len(labelled.query.paths),
        left_out=len(session.pictures) - len(result.query.paths),
        files={
            f"{CLASSES_FOLDER}/": "all pictures, in a folder per class",
            PREDICTIONS_FILE: "class, probability and nearest labelled picture of each",
            "classifier/": "the classifier, for adapt.load",
            f"{SUPPORT_FOLDER}/": "the labelled pictures, for launch.py adapt, evaluate and align",
        },
        alone=len(done.changed + done.blocked + support.changed + support.blocked),
    )


def _classify(
    session: LabellingSession, predictions: PicturePredictions, numbers: np.ndarray, described: Mapping[str, Any]
) -> SortingResult:
    """Return the predictions for the pictures `numbers`, in which labelled ones have the class of their label."""
    class_names, features, fit = predictions.names, session.features[: len(numbers)], predictions.fit
    used = np.unique(predictions.labels) if predictions.texts is None else np.arange(len(class_names))
    renumbered = np.full(len(class_names), -1)
    renumbered[used] = np.arange(len(used))
    labels = renumbered[predictions.labels]
    paths = [session.pictures.path(number) for number in numbers.tolist()]
    query = EmbeddedFolder(session.pictures.root, paths, features, [])
    support = EmbeddedFolder(query.root, [paths[row] for row in predictions.rows], features[predictions.rows], [])
    right = fit.left_out.argmax(axis=1) == predictions.labels
    left_out = fit.left_out[:, used] if np.bincount(labels).max() > 1 else None
    candidate = Candidate(
        method=fit.method,
        adapter=create(fit.method, **fit.settings),
        accuracy=float("nan") if left_out is None else float(right.mean()),
        tried=fit.tried,
        selected_by="defaults" if left_out is None else "leave-one-out on the labelled pictures",
    )
    result = classify(
        MethodChoice(candidate, [candidate], left_out),
        class_names=[class_names[label] for label in used],
        support=support,
        labels=labels,
        query=query,
        class_texts=predictions.texts,
        out=session.out,
        described=described,
    )
    probabilities = result.probabilities.copy()
    probabilities[predictions.rows] = np.eye(len(used))[labels]
    return dataclasses.replace(result, probabilities=probabilities)


def _take(result: SortingResult, rows: np.ndarray) -> SortingResult:
    """Return a result for some rows of its queries."""
    query = result.query
    return dataclasses.replace(
        result,
        query=query._replace(paths=[query.paths[row] for row in rows], features=query.features[rows]),
        probabilities=result.probabilities[rows],
        nearest=result.nearest[rows],
        cosines=result.cosines[rows],
    )

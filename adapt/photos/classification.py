"""The classification of embedded images or stored features by a method that suits the support set, and its files."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from adapt.adapters.classifier_files import CLASSES_FILE
from adapt.model_selection.calibration import calibrate, probabilities
from adapt.model_selection.methods import Candidate, MethodChoice, choose_method
from adapt.photos.folders import EmbeddedFolder, check_finite, readable
from adapt.photos.outliers import far_threshold, find_nearest
from adapt.photos.problems import find_problems
from adapt.photos.sorting_result import SortingResult
from foundation.files.atomic import write_json, write_text
from foundation.files.csv_text import csv_text

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.csv"
PREDICTION_FIELDS = ("path", "class", "probability", "nearest", "cosine", "far")


def choose_and_log(
    method: str,
    *,
    class_names: list[str],
    support: EmbeddedFolder,
    labels: np.ndarray,
    class_texts: np.ndarray | None,
) -> MethodChoice:
    """Return the method with settings for a support set, as `choose_method` does, and log what was compared.

    `labels` `[support]` are class numbers and `class_texts` `[classes, dim]` text features, or None.
    """
    if np.bincount(labels).max() < 2:
        logger.info(
            "no class has two support images, so methods and settings cannot be compared on held-out images; defaults "
            "are used"
        )
    choice = choose_method(
        method,
        support.features,
        labels,
        on_candidate=lambda candidate: logger.info(describe(candidate)),
        num_classes=len(class_names),
        class_text_features=class_texts,
    )
    logger.info(f"selected: {choice.chosen.method} ({choice.chosen.selected_by})")
    return choice


def classify(
    choice: MethodChoice,
    *,
    class_names: list[str],
    support: EmbeddedFolder,
    labels: np.ndarray,
    query: EmbeddedFolder,
    class_texts: np.ndarray | None,
    out: pathlib.Path,
    described: Mapping[str, Any],
) -> SortingResult:
    """Fit the chosen classifier and classify the query rows; write `classifier/` and return the result.

    `labels` and `class_texts` are as in `choose_and_log`. `described` has the fields of `classes.json` that tell where
    the features are from.
    """
    chosen = choice.chosen
    arguments = {"num_classes": len(class_names), "class_text_features": class_texts}
    if chosen.adapter.transductive:
        logger.info(
            f"{chosen.method} is transductive: it classifies all {len(query.paths):,} queries together. It is meant "
            "for queries in which all classes are about equally frequent; where classes are missing, it is often wrong"
        )
    classifier = chosen.adapter.fit(support.features, labels, **arguments)
    logits = np.asarray(classifier(query.features))
    check_finite(logits, query.paths, f"rows of logits of {chosen.method}")
    calibration = calibrate(classifier, choice.left_out_logits)
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
        checkpoint=None if "features" in described else described["checkpoint"],
    )
    for problem in find_problems(result):
        logger.warning(problem)
    classifier.save(out / "classifier")
    write_json(out / "classifier" / CLASSES_FILE, _description(result, described))
    return result


def write_predictions(result: SortingResult, out: pathlib.Path) -> None:
    """Write `predictions.csv`."""
    write_text(out / PREDICTIONS_FILE, csv_text(PREDICTION_FIELDS, _predictions(result)))


def _description(result: SortingResult, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `classes.json`: the class names, where the features are from, and the calibration."""
    chosen, expected = result.choice.chosen, result.expected_accuracy
    return {
        "classes": result.class_names,
        "method": chosen.method,
        "transductive": chosen.adapter.transductive,
        "selected_by": chosen.selected_by,
        "left_out_accuracy": None if np.isnan(chosen.accuracy) else round(chosen.accuracy, 6),
        "left_out_accuracy_interval": expected and [round(expected.low, 6), round(expected.high, 6)],
        **described,
        "calibration": result.calibration.factor,
        "calibrated_on": result.calibration.source,
        "far_below": result.far_threshold,
    }


def describe(candidate: Candidate) -> str:
    """Return a line of the log that compares the methods."""
    if candidate.error is not None:
        return f"{candidate.method:<12}  cannot be used: {candidate.error}"
    accuracy = " – " if np.isnan(candidate.accuracy) else f"{candidate.accuracy:.1%}"
    how = f"{candidate.selected_by}, {candidate.tried} tried" if candidate.tried else candidate.selected_by
    return f"{candidate.method:<12} {accuracy:>6} correct  {candidate.settings or 'no settings'}  ({how})"


def report_identical_support(found: np.ndarray, support: EmbeddedFolder, labels: np.ndarray) -> None:
    """Log how many support images are copies of others: of another class, whose label must be wrong, or of their own.

    `found` `[n]` is the row of a copy of each support image, or −1. Leave-one-out leaves the other copy in the support
    set, so that its accuracy is too low or too high.
    """
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

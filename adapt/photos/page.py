"""One self-contained page about classified images: the predictions to check first, and how the method was selected."""

from __future__ import annotations

import datetime
import functools
import os
import pathlib
from typing import Any

import numpy as np

from adapt.photos.folders import readable
from adapt.photos.sorting_result import SortingResult
from data.pipeline.image_ops import EncodedImage
from data.pipeline.thumbnails import data_uri
from data.sources.base import BadRecord
from foundation.files.atomic import write_text
from foundation.html import render

SHOWN = 24  # least confident predictions, and as many far images
STRIPS = 240  # thumbnails of confident predictions in total
STRIP = 6  # thumbnails of confident predictions per class
_TOP = 3  # classes per image
_PIXELS, _SMALL = 160, 64  # of thumbnails
_MISSING_IMAGE = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def write_page(result: SortingResult, path: pathlib.Path) -> pathlib.Path:
    """Write the page and return its path."""
    far = np.flatnonzero(result.far)
    near = np.flatnonzero(~result.far)
    uncertain = near[np.argsort(result.confidence[near], kind="stable")][:SHOWN]
    farthest = far[np.argsort(result.cosines[far], kind="stable")][:SHOWN]
    page = render(
        pathlib.Path(__file__).with_name("photos.html.j2"),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=_facts(result),
        candidates=[_candidate(result, number) for number in range(len(result.choice.candidates))],
        chosen=result.choice.chosen,
        classes=_classes(result),
        uncertain=[_card(result, int(row)) for row in uncertain],
        farthest=[_card(result, int(row)) for row in farthest],
        far_count=len(far),
        near_count=len(near),
        far_threshold=result.far_threshold,
        calibration=result.calibration,
        left_out=result.left_out[:SHOWN],
        left_out_count=len(result.left_out),
    )
    write_text(path, page)
    return path


def _facts(result: SortingResult) -> list[tuple[str, str]]:
    """Return the main numbers, each with what it counts."""
    accuracy = result.choice.chosen.accuracy
    facts = [
        (f"{len(result.query.paths):,}", "images classified"),
        (f"{len(result.class_names):,}", f"classes, {len(result.labels):,} support images"),
        (f"{int(result.far.sum()):,}", "far from every support image"),
        (f"{len(result.left_out):,}", "file left out" if len(result.left_out) == 1 else "files left out"),
    ]
    return facts if np.isnan(accuracy) else [*facts, (f"{accuracy:.0%}", "accuracy on held-out support images")]


def _candidate(result: SortingResult, number: int) -> dict[str, Any]:
    candidate = result.choice.candidates[number]
    how = f"{candidate.selected_by}, {candidate.tried} tried" if candidate.tried else candidate.selected_by
    return {
        "method": candidate.method,
        "accuracy": "–" if np.isnan(candidate.accuracy) else f"{candidate.accuracy:.1%}",
        "settings": candidate.error or candidate.settings or "no settings",
        "how": how,
        "best": candidate is result.choice.chosen,
    }


def _classes(result: SortingResult) -> list[dict[str, Any]]:
    """Return a row per class: the numbers of images, and the most confident predictions that are not far."""
    predicted, confidence = result.predicted, result.confidence
    strip = min(STRIP, STRIPS // len(result.class_names))
    rows = []
    for label, name in enumerate(result.class_names):
        members = np.flatnonzero(predicted == label)
        near = members[~result.far[members]]
        confident = near[np.argsort(-confidence[near], kind="stable")][:strip]
        support = np.flatnonzero(result.labels == label)
        example = _thumbnail_of(result.support.root, result.support.paths[support[0]], _SMALL) if strip else None
        rows.append(
            {
                "name": _words(name),
                "support": len(support),
                "predicted": len(members),
                "far": len(members) - len(near),
                "share": len(members) / len(predicted),
                "example": example,
                "confident": [_thumbnail_of(result.query.root, result.query.paths[row], _SMALL) for row in confident],
            }
        )
    return rows


def _card(result: SortingResult, row: int) -> dict[str, Any]:
    probabilities = result.probabilities[row]
    top = np.argsort(-probabilities, kind="stable")[:_TOP]
    nearest = int(result.nearest[row])
    return {
        "picture": _thumbnail_of(result.query.root, result.query.paths[row], _PIXELS),
        "nearest": _thumbnail_of(result.support.root, result.support.paths[nearest], _PIXELS),
        "nearest_class": _words(result.class_names[result.labels[nearest]]),
        "cosine": f"{result.cosines[row]:.3f}",
        "top": [
            {"name": _words(result.class_names[label]), "percent": 100 * float(probabilities[label])}
            for label in map(int, top)
        ],
    }


def _words(name: str) -> str:
    return name.replace("_", " ")


def _thumbnail_of(root: str, path: str, pixels: int) -> dict[str, str]:
    return {"uri": _thumbnail(os.path.join(root, path), pixels), "path": readable(path)}


@functools.lru_cache(maxsize=1024)
def _thumbnail(path: str, pixels: int) -> str:
    """Return an image as a data URI, at most `pixels` wide and high; a transparent one if the file has vanished."""
    size = 2 * pixels  # for screens with two device pixels per CSS pixel
    try:
        with open(path, "rb") as file:
            picture = EncodedImage(file.read(), path).decode((size, size))
    except (OSError, BadRecord):
        return _MISSING_IMAGE
    return data_uri(picture, size, quality=75)

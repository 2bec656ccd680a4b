"""A page about classified images: what to expect, what to check first, all images by class, and how it was computed."""

from __future__ import annotations

import datetime
import os
import pathlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np

from adapt.photos.folders import readable
from adapt.photos.problems import find_problems
from adapt.photos.sorting_result import SortingResult
from adapt.photos.thumbnails import embedded_thumbnail, write_thumbnails
from foundation.files.atomic import write_text
from foundation.html import render

SHOWN = 24  # least confident predictions, and as many far images
STRIPS = 240  # support images in total
STRIP = 6  # support images per class
LIMITS = (95, 80, 50)  # percent, of the filter by probability
_TOP = 3  # classes per image
_PIXELS, _SMALL = 160, 64  # of thumbnails


def _no_progress(name: str, done: int, total: int) -> None:
    pass


def write_page(
    result: SortingResult, path: pathlib.Path, *, progress: Callable[[str, int, int], None] = _no_progress
) -> pathlib.Path:
    """Write the page and return its path.

    The pictures of the section on all images are files in `.thumbnails/` next to the page, all others are in the page.
    """
    far = np.flatnonzero(result.far)
    near = np.flatnonzero(~result.far)
    uncertain = near[np.argsort(result.confidence[near], kind="stable")][:SHOWN]
    farthest = far[np.argsort(result.cosines[far], kind="stable")][:SHOWN]
    thumbnails = write_thumbnails(result.query.root, result.query.paths, path.parent, progress=progress)
    page = render(
        pathlib.Path(__file__).with_name("photos.html.j2"),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=_facts(result),
        expected=result.expected_accuracy,
        problems=find_problems(result),
        candidates=[_candidate(result, number) for number in range(len(result.choice.candidates))],
        chosen=result.choice.chosen,
        transductive=result.choice.chosen.adapter.transductive,
        classes=_classes(result, thumbnails, path.parent),
        uncertain=[_card(result, int(row)) for row in uncertain],
        farthest=[_card(result, int(row)) for row in farthest],
        count=len(result.query.paths),
        far_count=len(far),
        near_count=len(near),
        far_threshold=result.far_threshold,
        limits=LIMITS,
        calibration=result.calibration,
        left_out=result.left_out[:SHOWN],
        left_out_count=len(result.left_out),
    )
    write_text(path, page)
    return path


def _facts(result: SortingResult) -> list[tuple[str, str]]:
    """Return the main numbers, each with what it counts."""
    expected = result.expected_accuracy
    interval, held_out = "–", "unknown, as no class has two support images"
    if expected is not None:
        interval = f"{100 * expected.low:.0f}–{100 * expected.high:.0f}%"
        held_out = f"{expected.correct:,} of {expected.total:,} held-out support images are correct"
    return [
        (f"{len(result.query.paths):,}", "images classified"),
        (interval, f"expected accuracy: {held_out}"),
        (f"{len(result.class_names):,}", f"classes, {len(result.labels):,} support images"),
        (f"{int(result.far.sum()):,}", "far from every support image"),
        (f"{len(result.left_out):,}", "file left out" if len(result.left_out) == 1 else "files left out"),
    ]


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


def _classes(result: SortingResult, thumbnails: list[str], folder: pathlib.Path) -> list[dict[str, Any]]:
    """Return each class with its images: the most confident first, and those that are far last."""
    predicted, order = result.predicted, np.lexsort((-result.confidence, result.far))
    strip = max(1, min(STRIP, STRIPS // len(result.class_names)))
    members: list[list[int]] = [[] for _ in result.class_names]
    for row in order:
        members[predicted[row]].append(int(row))
    largest = max(map(len, members))
    classes = []
    for label, (name, rows) in enumerate(zip(result.class_names, members, strict=True)):
        support = np.flatnonzero(result.labels == label)
        classes.append(
            {
                "name": _words(name),
                "count": len(rows),
                "far": int(result.far[rows].sum()),
                "percent": 100 * len(rows) / len(predicted),
                "width": 100 * len(rows) / largest,
                "support_count": len(support),
                "support": [
                    _thumbnail_of(result.support.root, result.support.paths[row], _SMALL) for row in support[:strip]
                ],
                "images": [_image(result, row, thumbnails[row], folder) for row in rows],
            }
        )
    return classes


def _image(result: SortingResult, row: int, thumbnail: str, folder: pathlib.Path) -> dict[str, Any]:
    """Return an image of the section on all images, with a link to its file."""
    path = os.path.join(os.path.abspath(result.query.root), result.query.paths[row])
    return {
        "thumbnail": thumbnail,
        "path": readable(result.query.paths[row]),
        "link": quote_from_bytes(os.fsencode(os.path.relpath(path, os.path.abspath(folder)))),
        "percent": 100 * float(result.confidence[row]),
        "far": bool(result.far[row]),
    }


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
    return {"uri": embedded_thumbnail(os.path.join(root, path), pixels), "path": readable(path)}

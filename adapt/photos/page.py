"""One self-contained page about sorted pictures: how the method was chosen, and the pictures to look at first."""

from __future__ import annotations

import datetime
import functools
import os
import pathlib
from typing import Any

import numpy as np

from adapt.photos.folders import readable
from adapt.photos.outcome import Outcome
from data.pipeline.image_ops import EncodedImage
from data.pipeline.thumbnails import data_uri
from data.sources.base import BadRecord
from foundation.atomic import write_text
from foundation.html import render

SHOWN = 24  # least certain pictures, and as many far ones
STRIPS = 240  # pictures in the rows of the classes, all together
STRIP = 6  # of a class
_TOP = 3  # classes of a picture
_PIXELS, _SMALL = 160, 64  # of thumbnails
_NO_PICTURE = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def write_page(outcome: Outcome, path: pathlib.Path) -> pathlib.Path:
    """Writes the page; returns its path."""
    certainty = outcome.probabilities.max(axis=1)
    far = np.flatnonzero(outcome.far)
    near = np.flatnonzero(~outcome.far)
    uncertain = near[np.argsort(certainty[near], kind="stable")][:SHOWN]
    farthest = far[np.argsort(outcome.cosines[far], kind="stable")][:SHOWN]
    page = render(
        pathlib.Path(__file__).with_name("photos.html.j2"),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=_facts(outcome),
        candidates=[_candidate(outcome, number) for number in range(len(outcome.choice.candidates))],
        chosen=outcome.choice.chosen,
        classes=_classes(outcome),
        uncertain=[_card(outcome, int(number)) for number in uncertain],
        farthest=[_card(outcome, int(number)) for number in farthest],
        far_count=len(far),
        near_count=len(near),
        far_below=outcome.far_below,
        calibration=outcome.calibration,
        left_out=outcome.left_out[:SHOWN],
        left_out_count=len(outcome.left_out),
    )
    write_text(path, page)
    return path


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    """Returns the numbers that a reader looks for first, each with what it counts."""
    accuracy = outcome.choice.chosen.accuracy
    facts = [
        (f"{len(outcome.query.paths):,}", "pictures sorted"),
        (f"{len(outcome.class_names):,}", f"classes, {len(outcome.labels):,} examples"),
        (f"{int(outcome.far.sum()):,}", "far from every example"),
        (f"{len(outcome.left_out):,}", "file left out" if len(outcome.left_out) == 1 else "files left out"),
    ]
    return facts if np.isnan(accuracy) else [*facts, (f"{accuracy:.0%}", "of left-out examples right")]


def _candidate(outcome: Outcome, number: int) -> dict[str, Any]:
    one = outcome.choice.candidates[number]
    return {
        "method": one.method,
        "accuracy": "–" if np.isnan(one.accuracy) else f"{one.accuracy:.1%}",
        "settings": one.error or one.settings or "no settings",
        "how": f"{one.selected_by}, {one.tried} tried" if one.tried else one.selected_by,
        "best": one is outcome.choice.chosen,
    }


def _classes(outcome: Outcome) -> list[dict[str, Any]]:
    """Returns a row a class: how many examples and pictures, and the surest of the pictures that are near."""
    predicted, certainty = outcome.predicted, outcome.probabilities.max(axis=1)
    count = len(outcome.class_names)
    strip = min(STRIP, STRIPS // count)
    rows = []
    for label, name in enumerate(outcome.class_names):
        members = np.flatnonzero(predicted == label)
        near = members[~outcome.far[members]]
        surest = near[np.argsort(-certainty[near], kind="stable")][:strip]
        examples = np.flatnonzero(outcome.labels == label)
        rows.append(
            {
                "name": _spoken(name),
                "examples": len(examples),
                "pictures": len(members),
                "far": len(members) - len(near),
                "share": len(members) / len(predicted),
                "example": _shown(outcome.support.root, outcome.support.paths[examples[0]], _SMALL) if strip else None,
                "surest": [_shown(outcome.query.root, outcome.query.paths[one], _SMALL) for one in surest],
            }
        )
    return rows


def _card(outcome: Outcome, number: int) -> dict[str, Any]:
    probabilities = outcome.probabilities[number]
    top = np.argsort(-probabilities, kind="stable")[:_TOP]
    near = int(outcome.nearest[number])
    return {
        "picture": _shown(outcome.query.root, outcome.query.paths[number], _PIXELS),
        "nearest": _shown(outcome.support.root, outcome.support.paths[near], _PIXELS),
        "nearest_class": _spoken(outcome.class_names[outcome.labels[near]]),
        "cosine": f"{outcome.cosines[number]:.3f}",
        "top": [
            {"name": _spoken(outcome.class_names[label]), "percent": 100 * float(probabilities[label])}
            for label in map(int, top)
        ],
    }


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _shown(root: str, path: str, pixels: int) -> dict[str, str]:
    return {
        "uri": _thumbnail(os.path.join(root, path), pixels),
        "path": readable(path),
    }


@functools.lru_cache(maxsize=1024)
def _thumbnail(path: str, pixels: int) -> str:
    """Returns a picture as a data URI, at most `pixels` wide and high; nothing visible where it went meanwhile."""
    try:
        with open(path, "rb") as file:
            picture = EncodedImage(file.read(), path).decode((2 * pixels, 2 * pixels))
    except (OSError, BadRecord):
        return _NO_PICTURE
    return data_uri(picture, 2 * pixels, quality=75)  # twice as many as are shown, for fine screens

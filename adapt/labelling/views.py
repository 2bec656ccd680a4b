"""The content of the page, as JSON: columns per class, pictures in an order, the estimate of accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.labelling.estimate import AccuracyEstimate
from adapt.labelling.session import LabellingSession

COLUMN = 8  # pictures at either end of a column
ORDERS = ("unsure", "sure", "name")
MOST = 500  # pictures of one answer


class View(NamedTuple):
    """Pictures to list.

    show: "all", "labelled", "unlabelled", "far", "unreadable" or "class:NAME".
    order: one of `ORDERS`; with `similar_to`, the number of a picture, or with `text` they are ordered by likeness.
    """

    show: str = "all"
    order: str = "unsure"
    similar_to: int | None = None
    text: str = ""


def session_state(session: LabellingSession, *, keep: Sequence[int] = ()) -> dict[str, Any]:
    """Return everything the page shows, except for the list of all pictures.

    `keep` are numbers of pictures that are described in addition to the suggested ones; unknown ones are left out.
    """
    with session.lock:
        predictions, names = session.predictions, session.class_names
        labels, estimates = session.labels, session.estimates
        counts = dict.fromkeys(names, 0)
        for name in labels.values():
            counts[name] += 1
        return {
            "session": session.identity,
            "version": session.version,
            "pictures": len(session.pictures),
            "embedded": session.embedded,
            "unreadable": len(session.bad),
            "embedding": not session.finished_embedding and session.problem is None,
            "problem": session.problem,
            "labelled": len(labels),
            "searchable": session.embed_text is not None,
            "undo": _describe_change(session),
            "classes": [{"name": name, "labelled": counts[name]} for name in names],
            "suggestions": [
                _picture(session, int(session.numbers[row]), labels) | {"reason": reason}
                for row, reason in zip(*session.suggestions, strict=True)
            ],
            "kept": [_picture(session, number, labels) for number in keep if 0 <= number < len(session.pictures)],
            "columns": [] if predictions is None else _columns(session, labels),
            "method": None if predictions is None else _method(session),
            "estimate": _estimate(estimates),
            "checks": session.checks,
            "curve": [
                {"labels": count, "accuracy": each.accuracy, "low": each.low, "high": each.high}
                for count, each in estimates
            ],
        }


def list_pictures(session: LabellingSession, view: View, *, start: int, count: int) -> dict[str, Any]:
    """Return a part of the pictures of a view, and their total.

    Raises `ValueError` for an unknown view, for a picture that is not embedded yet, and for a text where the checkpoint
    embeds images only.
    """
    query = None
    if view.text:
        if session.embed_text is None:
            raise ValueError("this checkpoint embeds images only, so pictures cannot be searched by text.")
        query = session.embed_text(view.text)  # slow, so outside of the lock
    with session.lock:
        labels = session.labels
        numbers = _ordered(session, view, query, labels)
        part = numbers[start : start + min(count, MOST)]
        return {
            "version": session.version,
            "total": len(numbers),
            "start": start,
            "pictures": [_picture(session, int(number), labels) for number in part],
        }


def _ordered(session: LabellingSession, view: View, query: np.ndarray | None, labels: dict[int, str]) -> np.ndarray:
    """Return the numbers of the pictures of a view, in its order."""
    if view.show == "unreadable":
        return np.array(sorted(session.bad), np.int64)
    members = _members(session, view.show, labels)
    if view.similar_to is not None:
        row = session.row(view.similar_to) if 0 <= view.similar_to < len(session.pictures) else None
        if row is None:
            raise ValueError("this picture is not embedded yet. Try again in a moment.")
        query = session.features[row]
    numbers = np.flatnonzero(members)
    if query is not None:
        rows = np.flatnonzero(members[session.numbers])
        likeness = session.features[rows] @ query
        if view.similar_to is not None:
            likeness[session.numbers[rows] == view.similar_to] = np.inf  # before its copies
        order = np.argsort(-likeness, kind="stable")
        return session.numbers[rows[order]]
    if view.order not in ORDERS:
        raise ValueError(f"order {view.order!r} is unknown. Use one of {', '.join(ORDERS)}.")
    if view.order == "name" or session.predictions is None:
        return numbers
    confidence = np.full(len(session.pictures), np.nan, np.float32)
    confidence[session.predicted_numbers] = session.predictions.confidence
    sign = 1 if view.order == "unsure" else -1
    return numbers[np.argsort(sign * confidence[numbers], kind="stable")]  # NaN, of those not embedded, last


def _members(session: LabellingSession, show: str, labels: dict[int, str]) -> np.ndarray:
    """Return the mask of the pictures that a view shows, `[pictures]`."""
    mask = np.ones(len(session.pictures), bool)
    mask[list(session.bad)] = False
    labelled = np.zeros(len(mask), bool)
    labelled[list(labels)] = True
    if show == "all":
        return mask
    if show in ("labelled", "unlabelled"):
        return mask & (labelled == (show == "labelled"))
    if show == "far" or show.startswith("class:"):
        chosen = np.zeros(len(mask), bool)
        predictions = session.predictions
        if predictions is not None and show == "far":
            chosen[session.predicted_numbers[predictions.far]] = True
            return chosen & ~labelled
        name = show.removeprefix("class:")
        if name not in session.class_names:
            raise ValueError(f"class {name!r} does not exist.")
        if predictions is not None:
            label = predictions.names.index(name)
            chosen[session.predicted_numbers[(predictions.predicted == label) & ~predictions.far]] = True
        chosen[list(labels)] = [own == name for own in labels.values()]
        return chosen
    raise ValueError(f"view {show!r} is unknown.")


def _columns(session: LabellingSession, labels: dict[int, str]) -> list[dict[str, Any]]:
    """Return a column per class, with its surest and least sure pictures, and one of far pictures."""
    predictions = session.predictions
    far = predictions.far
    open_rows = session.is_open()[: len(far)]
    predicted, confidence = predictions.predicted, predictions.confidence
    columns = []
    for label, name in enumerate(predictions.names):
        rows = np.flatnonzero(open_rows & ~far & (predicted == label))
        order = rows[np.argsort(-confidence[rows], kind="stable")]
        sure = order[:COLUMN]
        unsure = order[len(sure) :][::-1][:COLUMN]
        columns.append({"name": name, "count": len(rows), **_ends(session, labels, sure, unsure)})
    rows = np.flatnonzero(open_rows & far)
    order = rows[np.argsort(predictions.cosines[rows], kind="stable")]
    columns.append({"name": None, "count": len(rows), **_ends(session, labels, order[: 2 * COLUMN], order[:0])})
    return columns


def _ends(session: LabellingSession, labels: dict[int, str], sure: np.ndarray, unsure: np.ndarray) -> dict[str, Any]:
    def pictures(rows: np.ndarray) -> list[dict[str, Any]]:
        return [_picture(session, int(number), labels) for number in session.numbers[rows]]

    return {"sure": pictures(sure), "unsure": pictures(unsure)}


def _picture(session: LabellingSession, number: int, labels: dict[int, str]) -> dict[str, Any]:
    """Return what the page shows of one picture."""
    shown: dict[str, Any] = {"number": number, "name": session.pictures.names[number], "label": labels.get(number)}
    if number in session.bad:
        shown["problem"] = session.bad[number]
    row, predictions = session.row(number), session.predictions
    if predictions is not None and row is not None and row < len(predictions.cosines):
        classified = predictions.picture(row)
        shown["guess"] = predictions.names[classified.label]
        shown["probability"] = round(classified.probability, 4)
        shown["far"] = classified.far
    return shown


def _method(session: LabellingSession) -> dict[str, Any]:
    fit, calibration = session.predictions.fit, session.predictions.calibration
    settings = ", ".join(f"{name}={value:g}" for name, value in fit.settings.items())
    if fit.tried == 0:
        why = "no picture has a label yet; these are guesses from the class names"
    elif np.isnan(fit.accuracy):
        why = "the default until a class has two labels"
    else:
        why = f"the best of {fit.tried} on left-out labels"
    return {"name": fit.method, "settings": settings, "why": why, "calibrated_on": calibration.source}


def _estimate(estimates: list[tuple[int, AccuracyEstimate]]) -> dict[str, Any] | None:
    if not estimates:
        return None
    estimate = estimates[-1][1]
    how = (
        f"{estimate.correct} of the last {estimate.total} random pictures were guessed right before they were labelled"
    )
    return {"accuracy": estimate.accuracy, "low": estimate.low, "high": estimate.high, "how": how}


def _describe_change(session: LabellingSession) -> str | None:
    change = session.last
    if change is None:
        return None
    if change.renamed is not None:
        return f"class {change.name} renamed to {change.renamed}"
    if not change.pictures:
        return f"class {change.name} removed"
    pictures = change.pictures[0] if len(change.pictures) == 1 else f"{len(change.pictures):,} pictures"
    return f"label of {pictures} removed" if change.name is None else f"{pictures} → {change.name}"

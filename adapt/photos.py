"""Sorting a person's pictures into classes, of which a folder each has a few examples: `launch.py adapt`."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np

from adapt.calibration import WITHOUT_TEXT, factor_of_examples, factor_of_left_out, probabilities
from adapt.choice import AUTO, Candidate, Choice, check_method, choose
from adapt.encoder import Encoder, cached
from adapt.nearest import far_below, nearest
from adapt.photo_folders import (
    Embedded,
    Progress,
    check_finite,
    class_folders,
    embed_folder,
    in_class_folders,
    readable,
)
from data.fingerprint import fingerprint
from data.folders import ClassFolders, Pictures

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
        _check_classes(ClassFolders(self.support).class_names, self.support)
        Pictures(self.query)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that was found. `probabilities` `[queries, classes]`; `nearest` `[queries]` are numbers of support
    pictures, `cosines` those to them, and `far` tells which are below `far_below`."""

    class_names: list[str]
    support: Embedded
    labels: np.ndarray
    query: Embedded
    choice: Choice
    factor: float
    factor_from: str
    probabilities: np.ndarray
    nearest: np.ndarray
    cosines: np.ndarray
    far_below: float

    @property
    def predicted(self) -> np.ndarray:
        """The numbers of the predicted classes, `[queries]`."""
        return self.probabilities.argmax(axis=1)

    @property
    def far(self) -> np.ndarray:
        """Whether each query is far from every example, `[queries]`."""
        return self.cosines < self.far_below

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """The pictures that could not be used, with the reason."""
        return list(dict.fromkeys(self.support.left_out + self.query.left_out))


def sort_photos(
    encoder: Encoder, task: Task, *, progress: Progress = lambda name, done, total: None, say: Say = print
) -> Outcome:
    """Classifies the pictures of a task and writes its files; returns what was found.

    `task.out` gets `predictions.csv`, `left_out.csv`, `predictions.html` and `classifier/`, which `adapt.load` opens,
    with `classes.json` in it; in `embeddings/` are those of the pictures, so that they are embedded once, also when a
    run is stopped. `progress(name, done, total)` is called after every batch. Raises `ValueError` or `OSError` as
    `Task.check` does, where the checkpoint has no tokenizer and one is needed, where it is broken, and where no two
    classes have a readable picture.
    """
    from adapt.photos_page import write_page

    task.check()
    if task.templates:
        _check_tokenizer(encoder)
    keep = {"out": task.out, "progress": progress}
    support = in_class_folders(embed_folder(encoder, task.support, "support", **keep))
    query = embed_folder(encoder, task.query, "query", **keep)
    folders = [path.partition("/")[0] for path in support.paths]
    class_names = sorted(set(folders))
    for name in sorted(set(class_folders(task.support, task.out)) - set(class_names)):
        say(f"class folder {readable(name)} holds no readable picture; the class is left out")
    _check_classes(class_names, task.support)
    if not query.paths:
        raise ValueError(f"none of the {len(query.left_out)} files in {task.query} is a readable picture")
    labels = np.array([class_names.index(folder) for folder in folders])
    say(
        f"{len(support.paths)} examples of {len(class_names)} classes, {len(query.paths)} pictures to sort; "
        f"{len({*support.left_out, *query.left_out})} files left out, see {task.out / LEFT_OUT_FILE}"
    )
    outcome = _classify(encoder, task, class_names, support, labels, query, say)
    _write_tables(outcome, task.out)
    page = write_page(outcome, task.out / PAGE_FILE)
    say(
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
    say: Say,
) -> Outcome:
    text = _embed_classes(encoder, task, class_names) if task.templates else None
    arguments = {"num_classes": len(class_names), "class_text_features": text}
    if np.bincount(labels).max() < 2:
        say("no class has two examples, so that none can be left out to compare methods or settings by: defaults")
    choice = choose(task.method, support.features, labels, tell=lambda one: say(describe(one)), **arguments)
    chosen = choice.chosen
    say(f"taken: {chosen.method} ({chosen.selected_by})")
    classifier = chosen.adapter.fit(support.features, labels, **arguments)
    logits = np.asarray(classifier(query.features))
    check_finite(logits, query.paths, f"logits of {chosen.method}")
    several = np.bincount(labels)[labels] > 1
    if choice.left_out is not None:
        factor, factor_from = (
            factor_of_left_out(choice.left_out[several], labels[several]),
            "examples that were left out",
        )
    elif text is not None and chosen.method not in WITHOUT_TEXT:
        factor, factor_from = 1.0, "the scale of the text logits"
    else:
        factor = factor_of_examples(np.asarray(classifier(support.features)), labels)
        factor_from = "the examples themselves"
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
        "calibration": factor,
        "calibrated_on": factor_from,
        "far_below": limit,
    }
    content = json.dumps(described, ensure_ascii=False, indent=2) + "\n"
    _write(task.out / "classifier" / CLASSES_FILE, content)
    return Outcome(
        class_names=[readable(name) for name in class_names],
        support=support,
        labels=labels,
        query=query,
        choice=choice,
        factor=factor,
        factor_from=factor_from,
        probabilities=probabilities(logits, factor),
        nearest=numbers,
        cosines=cosines,
        far_below=limit,
    )


def describe(candidate: Candidate) -> str:
    """Returns a line of the table that a method is chosen from."""
    if candidate.error is not None:
        return f"{candidate.method:<12}  cannot be used: {candidate.error}"
    right = " – " if np.isnan(candidate.accuracy) else f"{candidate.accuracy:.1%}"
    how = f"{candidate.selected_by}, {candidate.tried} tried" if candidate.tried else candidate.selected_by
    return f"{candidate.method:<12} {right:>6} right  {candidate.settings or 'no settings'}  ({how})"


def _embed_classes(encoder: Encoder, task: Task, class_names: list[str]) -> np.ndarray:
    texts = [readable(name).replace("_", " ") for name in class_names]
    key = fingerprint(encoder.fingerprint, json.dumps([texts, task.templates]))
    compute = lambda: encoder.embed_classes(texts, task.templates)  # noqa: E731
    features = cached(task.out / "embeddings", f"texts-{key}", compute)
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


def _write_tables(outcome: Outcome, out: pathlib.Path) -> None:
    rows = zip(
        outcome.query.paths,
        outcome.predicted,
        outcome.probabilities.max(axis=1),
        outcome.nearest,
        outcome.cosines,
        outcome.far,
        strict=True,
    )
    lines = [
        (readable(path), outcome.class_names[label], f"{p:.6f}", readable(outcome.support.paths[near]), f"{c:.6f}",
         "yes" if far else "no")
        for path, label, p, near, c, far in rows
    ]  # fmt: skip
    for name, header, content in (
        (PREDICTIONS_FILE, PREDICTION_FIELDS, lines),
        (LEFT_OUT_FILE, ("path", "reason"), outcome.left_out),
    ):
        with tempfile.TemporaryDirectory(dir=out) as temporary:
            partial = pathlib.Path(temporary) / name
            with open(partial, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([header, *content])
            os.replace(partial, out / name)


def _write(path: pathlib.Path, content: str) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        partial = pathlib.Path(temporary) / path.name
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, path)

"""Support sets of a task: which images they have, and which labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adapt.evaluation.protocols.imbalance import draw_imbalanced
from adapt.evaluation.protocols.label_noise import add_label_noise
from adapt.evaluation.protocols.support_protocol import BALANCED, ZIPF, SupportProtocol
from adapt.evaluation.sampling import Draw, draw_coop, draw_nested
from data.fewshot.open import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupportSet:
    """One draw of the support: `rows` of the support images and their `labels`.

    `shots` is 0 where the set is empty and where it holds all support images. `short` is true where a class has fewer
    images than the protocol asks for. `wrong_labels` is the number of labels that are not those of the images.
    """

    shots: int
    seed: int
    rows: np.ndarray
    labels: np.ndarray
    short: bool
    wrong_labels: int = 0


EMPTY_SUPPORT = SupportSet(shots=0, seed=0, rows=np.zeros(0, np.int64), labels=np.zeros(0, np.int64), short=False)


class SupportDraws(NamedTuple):
    """Support sets, and sentences for the log about classes with too few images."""

    support_sets: tuple[SupportSet, ...]
    notes: tuple[str, ...] = ()


def draw_support_sets(
    dataset: Dataset,
    classes: np.ndarray,
    *,
    shots: Sequence[int],
    seeds: int,
    few_examples: str,
    protocol: SupportProtocol,
) -> SupportDraws:
    """Return the support sets of every number of shots and seed, restricted to the mask `classes`, and notes.

    The order in which the images of a class are drawn does not depend on the mask. There are no support sets if no
    class has an image to draw, as in a pool with one image per class.
    """
    labels, count = dataset.support.labels, len(dataset.class_names)
    coop = dataset.settings.draws == "coop" and protocol.balance == BALANCED
    keep = 1 if dataset.query is None and not coop else 0
    sizes = np.bincount(labels, minlength=count)[classes] - keep
    if sizes.max() < 1:
        return SupportDraws(())
    support_sets, notes = [], _protocol_notes(dataset, classes, protocol)
    for k in shots:
        drawn = [
            _draw(labels, classes, shots=k, seed=seed, coop=coop, keep=keep, protocol=protocol) for seed in range(seeds)
        ]
        if any(each.short for each in drawn):
            shortage = _shortage(max(0, int(sizes.min())), k, coop=coop, keep=keep, few_examples=few_examples)
            if protocol.balance != BALANCED:
                shortage = _imbalanced_shortage(k, protocol, few_examples=few_examples)
            notes.append(f"{dataset.name}: {shortage}")
            if few_examples == "skip":
                continue
        support_sets += [
            support_set_of(each, labels, shots=k, seed=seed, label_noise=protocol.label_noise)
            for seed, each in enumerate(drawn)
        ]
    return SupportDraws(tuple(support_sets), tuple(notes))


def _draw(
    labels: np.ndarray,
    classes: np.ndarray,
    *,
    shots: int,
    seed: int,
    coop: bool,
    keep: int,
    protocol: SupportProtocol,
) -> Draw:
    """Return the images of the classes in the mask `classes` that one support set has."""
    if protocol.balance != BALANCED:
        return draw_imbalanced(labels, classes, shots=shots, seed=seed, protocol=protocol, keep=keep)
    if coop:
        rows = draw_coop(labels, shots=shots, seed=seed + 1).rows
    else:
        rows = draw_nested(labels, len(classes), shots=shots, seed=seed, keep=keep).rows
    sizes = np.bincount(labels, minlength=len(classes))[classes] - keep
    return Draw(rows[classes[labels[rows]]], bool(sizes.min() < shots))


def support_set_of(drawn: Draw, labels: np.ndarray, *, shots: int, seed: int, label_noise: float) -> SupportSet:
    """Return a draw as a support set, with `label_noise` of its labels wrong."""
    right = labels[drawn.rows]
    noisy = add_label_noise(right, share=label_noise, seed=seed, shots=shots)
    wrong = int((noisy != right).sum())
    return SupportSet(shots=shots, seed=seed, rows=drawn.rows, labels=noisy, short=drawn.short, wrong_labels=wrong)


def _protocol_notes(dataset: Dataset, classes: np.ndarray, protocol: SupportProtocol) -> list[str]:
    """Return sentences on classes without support images, and on draws that a protocol replaces."""
    if protocol.balance == BALANCED:
        return []
    notes = []
    lacking = np.flatnonzero(classes & (np.bincount(dataset.support.labels, minlength=len(classes)) == 0))
    if len(lacking):
        names = ", ".join(dataset.class_names[label] for label in lacking[:5]) + (", …" if len(lacking) > 5 else "")
        notes.append(f"{dataset.name}: no support images of {len(lacking)} of {int(classes.sum())} classes: {names}")
    if dataset.settings.draws == "coop":
        notes.append(f"{dataset.name}: CoOp's draws are balanced; {protocol.balance} support sets are drawn instead")
    return notes


def _imbalanced_shortage(shots: int, protocol: SupportProtocol, *, few_examples: str) -> str:
    """Return a sentence on too few images for an imbalanced support set and what is done about it."""
    if few_examples == "skip":
        consequence = f"{shots} shots are skipped"
    elif protocol.balance == ZIPF:
        consequence = "other classes have more images instead, so the support sets are less imbalanced"
    else:
        consequence = "all of them are used"
    what = "some classes have too few images for their frequency" if protocol.balance == ZIPF else "too few images"
    return f"{what} at {shots} shots; {consequence}"


def _shortage(fewest: int, shots: int, *, coop: bool, keep: int, few_examples: str) -> str:
    """Return a sentence on a class with fewer images than shots and what is done about it."""
    kept = ", besides one kept as a query" if keep else ""
    if few_examples == "skip":
        consequence = f"{shots} shots are skipped"
    elif coop:
        consequence = f"{shots} shots repeat some of them"
    elif keep:
        consequence = f"{shots} shots use all of them, which leaves few queries at every number of shots"
    else:
        consequence = f"{shots} shots use all of them"
    return f"the smallest class has {fewest} images to draw from{kept}; {consequence}"

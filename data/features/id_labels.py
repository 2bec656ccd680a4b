"""Labels that follow from ids: the folders of images that `embed` has embedded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.sources.folders.split_names import split_roles

logger = logging.getLogger(__name__)


class IdLabels(NamedTuple):
    """The name of the class of each row `[rows]`, and the rows of the query split, or None if ids name no splits."""

    labels: np.ndarray
    query_rows: np.ndarray | None


def labels_from_ids(where: str, ids: Sequence[str] | None) -> IdLabels:
    """Return the class of each id such as `CLASS/a.jpg`, or `SPLIT/CLASS/a.jpg` with a training and a test split.

    Folders that all ids have in common are ignored. Raises `ValueError` for ids without folders; `where` is the name of
    the rows in messages.
    """
    folders = [each.split("/")[:-1] for each in ids or ()]
    if not folders or not all(folders):
        problem = "they have no ids" if not ids else f"the id {ids[folders.index([])]!r} has no folder"
        raise ValueError(
            f"{where} has no labels, and {problem} with the name of a class. Write the labels, integers from 0 or "
            "names of classes, one per row, as a .txt or .npy file (docs/guides/evaluation.md)."
        )
    depth = 0
    while len({own[depth] for own in folders}) == 1 and all(len(own) > depth + 1 for own in folders):
        depth += 1
    first = {own[depth] for own in folders}
    roles = split_roles(first)
    by_role = {role: name for name, role in roles.items()}
    query = by_role.get("test") or by_role.get("validation")
    if "train" in by_role and query and first == set(roles) and all(len(own) > depth + 1 for own in folders):
        others = sorted(first - {by_role["train"], query})
        left_out = f"; {', '.join(others)} is not used" if others else ""
        logger.info(
            f"{where}: ids begin with splits: support rows are drawn from {by_role['train']}, queries are those of "
            f"{query}{left_out}. Labels are the folders below"
        )
        splits = np.array([own[depth] for own in folders])
        labels = np.array([own[depth + 1] for own in folders])
        labels[~np.isin(splits, [by_role["train"], query])] = ""
        return IdLabels(labels, np.flatnonzero(splits == query))
    if {"test", "validation"} & set(by_role):
        raise ValueError(
            f"{where}: the ids begin with {', '.join(sorted(first)[:5])}, which are neither classes nor a training "
            "and a test split with a folder per class. Write the labels as a .txt or .npy file "
            "(docs/guides/evaluation.md)."
        )
    logger.info(f"{where}: labels are the folders in the ids, such as {folders[0][depth]!r}")
    return IdLabels(np.array([own[depth] for own in folders]), None)

"""Datasets of an evaluation, opened before any work so that missing ones are reported first."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.retrieval import CaptionedImages, open_captioned_images
from data.fewshot.catalog import CATALOGUE, missing
from data.fewshot.open import Dataset, find_settings, open_dataset

logger = logging.getLogger(__name__)


class EvaluationInputs(NamedTuple):
    """The datasets by their names in the settings, the source dataset of transfer, if any, and the retrieval sets."""

    datasets: Mapping[str, Dataset]
    source: Dataset | None
    captioned: Sequence[CaptionedImages]


def open_inputs(settings: EvaluateSettings, data_dir: str | os.PathLike) -> EvaluationInputs:
    """Open every dataset and retrieval source.

    Raises `FileNotFoundError` where some are missing, after logging the command that prepares each missing part of the
    catalogue.
    """
    wanted = tuple(dict.fromkeys((*settings.datasets, *filter(None, [settings.transfer_from]))))
    custom, with_shifts = settings.custom_datasets, "shift" in settings.tasks
    shifts = [
        other for name in wanted if with_shifts and name != "digits" for other in find_settings(name, custom).shifts
    ]
    _check_catalogue([name for name in (*wanted, *shifts) if name not in custom], data_dir)
    opened = {
        name: open_dataset(
            name, data_dir, custom_datasets=custom, min_examples=settings.min_examples, with_shifts=with_shifts
        )
        for name in wanted
    }
    names = [dataset.name for dataset in opened.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"two datasets are called {twice!r}. Rename one of them in evaluate.custom_datasets.")
    captioned = [open_captioned_images(name, settings.caption, data_dir=data_dir) for name in settings.retrieval]
    datasets = {name: opened[name] for name in settings.datasets}
    for note in dict.fromkeys(note for dataset in datasets.values() for note in dataset.notes):
        logger.info(f"note: {note}")
    return EvaluationInputs(datasets, opened.get(settings.transfer_from), captioned)


def _check_catalogue(names: Sequence[str], data_dir: str | os.PathLike) -> None:
    """Raise `FileNotFoundError` where a catalogued dataset is missing; log the commands that prepare it."""
    lacking = missing([name for name in dict.fromkeys(names) if name in CATALOGUE], data_dir)
    for part in lacking:
        logger.info(f"missing: {part.name} ({part.source}): {part.command}")
    if lacking:
        absent = ", ".join(dict.fromkeys(part.name for part in lacking))
        raise FileNotFoundError(
            f"{absent} not found in {os.fspath(data_dir)}. Run the commands above, or set --data_dir to the "
            "folder that contains them."
        )

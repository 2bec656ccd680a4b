"""What an evaluation looks at, opened before any work, so that what is missing is told first."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.retrieval import Captioned, open_captioned
from data.fewshot.catalog import CATALOGUE, missing
from data.fewshot.open import Dataset, find_settings, open_dataset

logger = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """The datasets, by their names in the settings, the one with the examples of transfer, if any, and what retrieval
    is about."""

    datasets: Mapping[str, Dataset]
    source: Dataset | None
    captioned: Sequence[Captioned]


def open_inputs(settings: EvaluateSettings, data_dir: str | os.PathLike) -> Inputs:
    """Opens every dataset and the sources of retrieval.

    Raises `FileNotFoundError` where some are not, after it said of each set of the catalogue how it is prepared.
    """
    wanted = tuple(dict.fromkeys((*settings.datasets, *filter(None, [settings.transfer_from]))))
    own, with_shifts = settings.own, "shift" in settings.tasks
    shifts = [other for name in wanted if with_shifts and name != "digits" for other in find_settings(name, own).shifts]
    known = [name for name in dict.fromkeys((*wanted, *shifts)) if name in CATALOGUE and name not in own]
    lacking = missing(known, data_dir)
    for part in lacking:
        logger.info(f"missing: {part.name} ({part.source}): {part.command}")
    if lacking:
        names = ", ".join(dict.fromkeys(part.name for part in lacking))
        raise FileNotFoundError(
            f"{names} not found in {os.fspath(data_dir)}; name another --data_dir, or prepare them as is said above"
        )
    opened = {
        name: open_dataset(name, data_dir, own=own, min_examples=settings.min_examples, with_shifts=with_shifts)
        for name in wanted
    }
    names = [dataset.name for dataset in opened.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"two datasets are called {twice!r}; give one another name in evaluate.own")
    captioned = [open_captioned(name, settings.caption, data_dir) for name in settings.retrieval]
    datasets = {name: opened[name] for name in settings.datasets}
    for note in dict.fromkeys(note for dataset in datasets.values() for note in dataset.notes):
        logger.info(f"note: {note}")
    return Inputs(datasets, opened.get(settings.transfer_from), captioned)

"""What an evaluation looks at, opened before any work, so that what is missing is told first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from data.catalog import CATALOGUE, missing
from data.datasets import Dataset, open_dataset
from data.sources import open_source

if TYPE_CHECKING:
    from adapt.evaluate import EvaluateSettings


class Inputs(NamedTuple):
    """The datasets, by their names in the settings, and the one with the examples of transfer, if any."""

    datasets: Mapping[str, Dataset]
    source: Dataset | None


def open_inputs(settings: EvaluateSettings, data_dir: str | os.PathLike, say: Callable[[str], None]) -> Inputs:
    """Opens every dataset, and looks whether the sources of retrieval are there.

    Raises `FileNotFoundError` where some are not, after it said of each set of the catalogue how it is prepared.
    """
    wanted = tuple(dict.fromkeys((*settings.datasets, *filter(None, [settings.transfer_from]))))
    lacking = missing([name for name in wanted if name in CATALOGUE and name not in settings.own], data_dir)
    for part in lacking:
        say(f"missing: {part.name} ({part.source}): {part.command}")
    if lacking:
        names = ", ".join(dict.fromkeys(part.name for part in lacking))
        raise FileNotFoundError(
            f"{names} not found in {os.fspath(data_dir)}; name another --data_dir, or prepare them as is said above"
        )
    opened = {
        name: open_dataset(name, data_dir, own=settings.own, min_examples=settings.min_examples) for name in wanted
    }
    names = [dataset.name for dataset in opened.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"two datasets are called {twice!r}; give one another name in evaluate.own")
    for name in settings.retrieval:
        open_source(name, data_dir)
    datasets = {name: opened[name] for name in settings.datasets}
    for note in dict.fromkeys(note for dataset in datasets.values() for note in dataset.notes):
        say(f"note: {note}")
    return Inputs(datasets, opened.get(settings.transfer_from))

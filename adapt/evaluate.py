"""Few-shot evaluation of checkpoints: every dataset × task × method × shots × draw, and retrieval.

Work is done in units, one checkpoint, dataset, task and method each. A unit whose file is there is not done again, so
that a job that was stopped goes on, and jobs that share a folder share the work.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapt.embeddings import Progress
from adapt.evaluate_settings import EvaluateSettings, Share
from adapt.evaluation_job import Job
from adapt.results import Unit, merge
from data.catalog import CATALOGUE, missing
from data.datasets import Dataset, open_dataset

_ALL = Share()


def evaluate(
    checkpoints: Mapping[str, str | os.PathLike],
    settings: EvaluateSettings,
    *,
    out: str | os.PathLike,
    data_dir: str | os.PathLike,
    cache: str | os.PathLike | None = None,
    share: Share = _ALL,
    progress: Progress = lambda name, done, total: None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Evaluates checkpoints, each under a name; returns the rows, and writes them to `out/results.jsonl`.

    Datasets and retrieval sets are opened before any work, so that what is missing is told first. Embeddings are kept
    in `cache`, by default `out/embeddings`, under the content of checkpoint and data. With a `share` only its part of
    the datasets is evaluated; whichever job finishes the last unit writes `results.jsonl`, and the others return the
    rows there are.
    """
    out = pathlib.Path(out)
    cache = out / "embeddings" if cache is None else pathlib.Path(cache)
    datasets = _open_all(settings, data_dir, say)
    source = datasets.pop(settings.transfer_from) if settings.transfer_from not in settings.datasets else None
    source = source or datasets.get(settings.transfer_from)
    for note in dict.fromkeys(note for dataset in datasets.values() for note in dataset.notes):
        say(f"note: {note}")
    units: list[Unit] = []
    said: set[str] = set()
    for checkpoint, path in checkpoints.items():
        job = Job(checkpoint, path, settings, out, cache, progress, say, said)
        for number, dataset in enumerate(datasets.values()):
            mine = number % share.count == share.index
            units += job.dataset(dataset, source, work=mine)
        for number, name in enumerate(settings.retrieval):
            mine = (len(datasets) + number) % share.count == share.index
            units.append(job.retrieval(name, data_dir, work=mine))
    rows, missing = merge(out, units)
    if missing:
        say(
            f"{missing} of {len(units)} units are the work of other shares; the job that ends last writes results.jsonl"
        )
    return rows


def _open_all(
    settings: EvaluateSettings, data_dir: str | os.PathLike, say: Callable[[str], None]
) -> dict[str, Dataset | None]:
    """Opens every dataset, by the name in the settings; says of all that are not there how they are prepared."""
    wanted = tuple(dict.fromkeys((*settings.datasets, *filter(None, [settings.transfer_from]))))
    lacking = missing([name for name in wanted if name in CATALOGUE and name not in settings.own], data_dir)
    for part in lacking:
        say(f"missing: {part.name} ({part.source}): {part.command}")
    if lacking:
        names = ", ".join(dict.fromkeys(part.name for part in lacking))
        raise FileNotFoundError(
            f"{names} not found in {os.fspath(data_dir)}; name another --data_dir, or prepare them as is said above"
        )
    opened: dict[str, Dataset | None] = {
        name: open_dataset(name, data_dir, own=settings.own, min_examples=settings.min_examples) for name in wanted
    }
    names = [dataset.name for dataset in opened.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"two datasets are called {twice!r}; give one another name in evaluate.own")
    opened.setdefault(settings.transfer_from, None)
    return opened


def checkpoint_names(paths: Sequence[str]) -> dict[str, str]:
    """Returns a short name for each checkpoint: the last part of its path, of an `export` folder that before it.

    Raises `ValueError` where two are called the same; `NAME=PATH` gives one a name.
    """
    named: dict[str, str] = {}
    for path in paths:
        name, equals, rest = path.partition("=")
        if not equals or os.sep in name:
            parts = [part for part in path.rstrip("/").split("/") if part]
            name, rest = (parts[-2] if len(parts) > 1 and parts[-1] == "export" else parts[-1]), path
        if name in named:
            raise ValueError(f"two checkpoints are called {name!r}; write NAME={rest} for one")
        named[name] = rest
    return named

"""Few-shot evaluation of checkpoints: every dataset × task × method × shots × draw, and retrieval.

Work is done in units, one checkpoint, dataset, task and method each. A unit whose file is there is not done again, so
that a job that was stopped goes on, and jobs that share a folder share the work.
"""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from adapt.embedding.cache import Hosts, Progress
from adapt.evaluation.checkpoint_evaluator import Job
from adapt.evaluation.config import EvaluateSettings, Share
from adapt.evaluation.datasets import Inputs, open_inputs
from adapt.evaluation.results import Unit, merge

logger = logging.getLogger(__name__)

_ALL = Share()


def evaluate(
    checkpoints: Mapping[str, str | os.PathLike],
    settings: EvaluateSettings,
    *,
    out: str | os.PathLike,
    data_dir: str | os.PathLike,
    cache: str | os.PathLike | None = None,
    share: Share = _ALL,
    inputs: Inputs | None = None,
    hosts: Hosts | None = None,
    progress: Progress = lambda name, done, total: None,
) -> list[dict[str, Any]]:
    """Evaluates checkpoints, each under a name; returns the rows, and writes them to `out/results.jsonl`.

    Datasets and retrieval sets are opened before any work, so that what is missing is told first, unless they are given
    as `inputs`. Embeddings are made by `hosts`, by default all, and kept in `cache`, by default `out/embeddings`, under
    the content of checkpoint and data. With a `share` only its part of the datasets is evaluated; whichever job ends
    last writes `results.jsonl`, and the others return the rows there are.
    """
    out = pathlib.Path(out)
    cache = out / "embeddings" if cache is None else pathlib.Path(cache)
    datasets, source, captioned = inputs or open_inputs(settings, data_dir)
    units: list[Unit] = []
    said: set[str] = set()
    for checkpoint, path in checkpoints.items():
        job = Job(checkpoint, path, settings, out, cache, hosts, progress, said)
        for number, dataset in enumerate(datasets.values()):
            mine = number % share.count == share.index
            units += job.dataset(dataset, source, work=mine)
        for number, each in enumerate(captioned):
            mine = (len(datasets) + number) % share.count == share.index
            units.append(job.retrieval(each, work=mine))
    rows, missing = merge(out, units)
    if missing:
        logger.info(
            f"{missing} of {len(units)} units are the work of other shares; the job that ends last writes results.jsonl"
        )
    return rows


def embed(
    checkpoint: str | os.PathLike,
    settings: EvaluateSettings,
    inputs: Inputs,
    *,
    cache: str | os.PathLike,
    hosts: Hosts | None = None,
) -> None:
    """Puts into `cache` all that `evaluate` needs of a checkpoint's towers, after which it computes on its own."""
    cache = pathlib.Path(cache)
    job = Job("", checkpoint, settings, cache, cache, hosts, lambda name, done, total: None, set())
    for dataset in inputs.datasets.values():
        for task in job.tasks(dataset, inputs.source):
            job.features.of(task, dataset)
    for each in inputs.captioned:
        each.embed(job.encoder, cache, job.hosts, job.progress)


def split_checkpoints(text: str) -> list[str]:
    """Returns the checkpoints, PATH or NAME=PATH each, of a list with commas; paths that are there may have commas."""
    pieces, found = text.split(","), []
    while pieces:
        for count in range(len(pieces), 0, -1):
            one = ",".join(pieces[:count])
            if count == 1 or os.path.exists(one) or os.path.exists(one.partition("=")[2]):
                break
        found.append(one)
        pieces = pieces[count:]
    return found


def checkpoint_names(paths: Sequence[str]) -> dict[str, str]:
    """Returns a short name for each checkpoint: the last part of its path, of an `export` folder that before it.

    Raises `ValueError` where two are called the same; `NAME=PATH` gives one a name.
    """
    named: dict[str, str] = {}
    for path in paths:
        name, equals, rest = path.partition("=")
        if not equals or os.sep in name or os.path.exists(path):
            parts = [part for part in path.rstrip("/").split("/") if part]
            name, rest = (parts[-2] if len(parts) > 1 and parts[-1] == "export" else parts[-1]), path
        if name in named:
            raise ValueError(f"two checkpoints are called {name!r}; write NAME={rest} for one")
        named[name] = rest
    return named

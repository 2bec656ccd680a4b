"""Few-shot evaluation of checkpoints: every dataset × task × method × shots × seed, and retrieval.

The work is split into units, one per checkpoint, dataset, task and method. A finished unit has a file and is not
computed again, so that an interrupted evaluation resumes, and jobs that share a folder share the work.
"""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from adapt.embedding.cache import Hosts, Progress
from adapt.evaluation.checkpoint_evaluator import CheckpointEvaluator, NoteLog
from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.datasets import EvaluationInputs, open_inputs
from adapt.evaluation.results import Unit, merge
from foundation.shard import WHOLE, Shard

logger = logging.getLogger(__name__)


def _no_progress(name: str, done: int, total: int) -> None:
    pass


def evaluate(
    checkpoints: Mapping[str, str | os.PathLike],
    settings: EvaluateSettings,
    *,
    out: str | os.PathLike,
    data_dir: str | os.PathLike,
    cache: str | os.PathLike | None = None,
    shard: Shard = WHOLE,
    inputs: EvaluationInputs | None = None,
    hosts: Hosts | None = None,
    progress: Progress = _no_progress,
) -> list[dict[str, Any]]:
    """Evaluate checkpoints, given by name, and write the rows to `out/results.jsonl`; return the rows.

    Datasets and retrieval sets are opened before any work, unless they are passed as `inputs`, so that missing ones
    are reported first. Embeddings are computed by `hosts`, by default all, and kept in `cache`, by default
    `out/embeddings`, under a hash of checkpoint and data. With a `shard`, only its part of the datasets is evaluated;
    the job that finishes last writes `results.jsonl`, and earlier ones return the rows finished so far.
    """
    out = pathlib.Path(out)
    cache = out / "embeddings" if cache is None else pathlib.Path(cache)
    datasets, source, captioned = inputs or open_inputs(settings, data_dir)
    units: list[Unit] = []
    notes = NoteLog()
    for name, path in checkpoints.items():
        evaluator = CheckpointEvaluator.open(
            path, name=name, settings=settings, out=out, cache=cache, hosts=hosts, progress=progress, notes=notes
        )
        for number, dataset in enumerate(datasets.values()):
            units += evaluator.evaluate_dataset(dataset, source, compute=shard.contains(number))
        for number, each in enumerate(captioned, len(datasets)):
            units += evaluator.evaluate_retrieval(each, compute=shard.contains(number))
    rows, missing = merge(out, units)
    if missing:
        logger.info(
            f"{missing} of {len(units)} units belong to other shards; the shard that finishes last writes results.jsonl"
        )
    return rows


def embed(
    checkpoint: str | os.PathLike,
    settings: EvaluateSettings,
    inputs: EvaluationInputs,
    *,
    cache: str | os.PathLike,
    hosts: Hosts | None = None,
) -> None:
    """Write all embeddings that `evaluate` needs of a checkpoint to `cache`; after that, it runs on one host."""
    cache = pathlib.Path(cache)
    evaluator = CheckpointEvaluator.open(
        checkpoint,
        name="",
        settings=settings,
        out=cache,
        cache=cache,
        hosts=hosts,
        progress=_no_progress,
        notes=NoteLog(),
    )
    for dataset in inputs.datasets.values():
        for task in evaluator.tasks(dataset, inputs.source):
            evaluator.embedder.embed(task, dataset)
            if task.name == "few_shot":
                for baseline in evaluator.baselines:
                    baseline.embedder.embed_images(task)
    for each in inputs.captioned:
        each.embed(evaluator.encoder, **evaluator.embedder.options)


def checkpoint_names(paths: Sequence[str]) -> dict[str, str]:
    """Return the path of each checkpoint by a short name: the name in `NAME=PATH`, else the last part of the path.

    For a path that ends in `export`, the name is the folder above. Raises `ValueError` where two names are equal, and
    for an empty list.
    """
    if not paths:
        raise ValueError("--checkpoint names no checkpoint. Write --checkpoint=PATH, or several as A,NAME=B.")
    named: dict[str, str] = {}
    for path in paths:
        name, equals, rest = path.partition("=")
        if not equals or os.sep in name or os.path.exists(path):
            parts = [part for part in path.rstrip("/").split("/") if part]
            name, rest = (parts[-2] if len(parts) > 1 and parts[-1] == "export" else parts[-1]), path
        if not name or not rest:
            raise ValueError(f"--checkpoint={path} lacks a name or a path. Write PATH or NAME=PATH.")
        if name in named:
            raise ValueError(f"two checkpoints are called {name!r}. Write NAME={rest} to rename one of them.")
        named[name] = rest
    return named

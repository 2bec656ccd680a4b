"""Evaluate checkpoints or stored features, and report on runs."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import configs
from cluster.job_array import point_names
from foundation.command_line.option_values import split_list
from jobs.record import print_path, record_job
from jobs.settings import typed

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from adapt.evaluation.config import EvaluateSettings
    from foundation.shard import Shard


def evaluate(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    checkpoint: str | None = None,
    shard: str = "0/1",
    cache: pathlib.Path | None = None,
) -> None:
    """Evaluate the export of the run, or the given checkpoints or stored features instead."""
    from adapt.evaluation.run import EvaluateSettings, checkpoint_names
    from adapt.evaluation.run import evaluate as run
    from adapt.report.card_results import card_results
    from foundation.progress import ProgressBars
    from foundation.shard import Shard
    from models.checkpoints.model_card import write_results

    settings = typed(EvaluateSettings, "evaluate", config.evaluate)
    checkpoints = {workdir.name: workdir / "export"}
    if checkpoint:
        checkpoints = checkpoint_names(split_list(checkpoint))
    part = Shard.parse(shard)
    if settings.features:
        _evaluate_features(settings, workdir, checkpoint=checkpoint, cache=cache, shard=part)
        return
    with record_job(workdir, "evaluate") as describe:
        rows = run(
            checkpoints,
            settings,
            out=workdir / "evaluation",
            data_dir=config.data_dir,
            cache=cache,
            shard=part,
            progress=ProgressBars().show,
        )
        describe(f"{len(rows)} results")
    if not checkpoint:
        write_results(workdir / "export", card_results(rows))


def _evaluate_features(
    settings: EvaluateSettings,
    workdir: pathlib.Path,
    *,
    checkpoint: str | None,
    cache: pathlib.Path | None,
    shard: Shard,
) -> None:
    """Evaluate stored features; raise `ValueError` for options that only checkpoints have."""
    from adapt.evaluation.stored.run import evaluate_features

    for option, value in (("--checkpoint", checkpoint), ("--cache", cache)):
        if value is not None:
            raise ValueError(
                f"{option}={value} cannot be used with --features, which are evaluated without a checkpoint. Leave out "
                "one of them; `report` compares the workdirs in one folder."
            )
    with record_job(workdir, "evaluate") as describe:
        rows = evaluate_features(settings, out=workdir / "evaluation", shard=shard)
        describe(f"{len(rows)} results")


def report(workdir: pathlib.Path, *, config_path: str | None = None, baseline: str | None = None) -> None:
    """Write the report of a run, or of all runs in a folder, compared with the run named `baseline`.

    The config file names the points of a sweep.
    """
    from adapt.report.html_report import write_report
    from adapt.report.results_index import read_all_runs

    points = point_names(configs.load_sweep(config_path)) if config_path else []
    runs = read_all_runs(workdir, expected=points)
    print_path(write_report(runs, workdir, title=f"Report of {workdir.resolve().name}", baseline=baseline))

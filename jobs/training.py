"""Train towers, or heads on stored features."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.runtime.exit_codes import EXIT_PREEMPTED
from cluster.runtime.process_discovery import find_processes, join
from foundation.files.json_lines import append_json_line
from jobs.record import JOBS_FILE, record_job
from jobs.settings import evaluation_settings

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from adapt.evaluation.online import EvaluationInTraining
    from pretrain.loop import TrainResult


def pretrain(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    extend: bool = False,
    data_moved: bool = False,
) -> int:
    """Train the run in `workdir` or resume it, together with the other processes of the run.

    `extend` allows a resumed run to become longer, `data_moved` to read the same data from another path.
    """
    join(find_processes(os.environ, coordinator=coordinator, num_processes=num_processes, process_id=process_id))

    from pretrain.train import pretrain as train

    return _train("pretrain", train, config, workdir, extend=extend, data_moved=data_moved)


def align(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    extend: bool = False,
    data_moved: bool = False,
) -> int:
    """Train heads on stored features, as `pretrain` trains towers."""
    join(find_processes(os.environ, coordinator=coordinator, num_processes=num_processes, process_id=process_id))

    from pretrain.align.train import align as train

    return _train("align", train, config, workdir, extend=extend, data_moved=data_moved)


def _train(
    job: str,
    train: Callable[..., TrainResult],
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    extend: bool,
    data_moved: bool,
) -> int:
    """Train the run that the config's section of a job describes; return the exit code."""
    from pretrain.config.resume import ResumeOptions

    if job not in config:
        raise ValueError(f"the config has no section {job}. Use a config for this job, such as those in configs/.")

    def record(change: str) -> None:
        append_json_line(workdir / JOBS_FILE, {"job": job, "what": f"resumed: {change}", "seconds": 0.0})

    with record_job(workdir, job) as describe:
        result = train(
            config[job],
            workdir,
            data_dir=config.data_dir,
            evaluate=evaluation_in_training(config, job),
            options=ResumeOptions(extend=extend, data_moved=data_moved),
            record=record,
        )
        describe(f"steps {result.start_step}–{result.step} of {result.batch_size} pairs")
    return EXIT_PREEMPTED if result.preempted else 0


def evaluation_in_training(config: ConfigDict, job: str = "pretrain") -> EvaluationInTraining | None:
    """Return the evaluation of a run while it trains, or None if the config asks for none."""
    settings = evaluation_settings(config, job)
    if settings is None:
        return None
    from adapt.evaluation.online import EvaluationInTraining

    return EvaluationInTraining(settings, config.data_dir)

"""Align the included encoder with icons, with and without the context objective, and report on both."""

from __future__ import annotations

import logging
import os
import pathlib
from typing import TYPE_CHECKING

from jobs.checkpoints import export
from jobs.embedding import embed
from jobs.evaluation import evaluate
from jobs.record import print_path
from jobs.training import align

if TYPE_CHECKING:
    from ml_collections import ConfigDict


logger = logging.getLogger(__name__)


def quickstart(config: ConfigDict, workdir: pathlib.Path) -> int:
    """Align a frozen encoder with and without the context objective, and report both next to the encoder alone."""
    from adapt.report.html_report import write_report
    from adapt.report.results_index import read_runs

    encoder, features, cache = config.embed.checkpoint, workdir / "features", workdir / "embeddings"
    logger.info(f"\nfeatures of {encoder}, in {features}")
    embed(
        encoder,
        out=features,
        images=config.embed.images,
        image_size=config.embed.image_size,
        data_dir=config.data_dir,
    )
    runs = {"plain": config.plain, "context": {}}  # the report compares with the first
    for name, changes in runs.items():
        run = config.copy_and_resolve_references()
        with run.unlocked():
            run.align.update(changes)
            run.align.image_features = (os.fspath(features),)
        folder = workdir / name
        logger.info(f"\n{run.align.objective.base} loss, {name}, in {folder}")
        code = align(run, folder)
        if code:
            return code
        export(folder)
        evaluate(run, folder, cache=cache)
    logger.info(f"\nthe encoder alone, {encoder}")
    alone = config.copy_and_resolve_references()
    with alone.unlocked():
        alone.evaluate.image_size = config.embed.image_size
    evaluate(alone, workdir / "encoder", checkpoint=f"encoder={encoder}", cache=cache)
    results = [run for name in (*runs, "encoder") for run in read_runs(workdir / name, name=name)]
    photos = workdir / "photos"
    for each in (config, alone):
        with each.unlocked():
            each.evaluate.update(config.photos)
    exports = ",".join(f"{name}={workdir / name / 'export'}" for name in runs)
    evaluate(config, photos, checkpoint=exports, cache=cache)
    evaluate(alone, photos / "encoder", checkpoint=f"encoder={encoder}", cache=cache)
    on_photos = [*read_runs(photos), *read_runs(photos / "encoder", name="encoder")]
    print_path(write_report(on_photos, photos, title="Quickstart: photos"))
    print_path(write_report(results, workdir, title="Quickstart: icons"))
    return 0

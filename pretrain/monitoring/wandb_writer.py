"""Metrics of a run in Weights & Biases."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import secrets
from collections.abc import Mapping

from foundation.files.atomic import write_json
from pretrain.config.training import RunSettings

RUN_FILE = "wandb.json"


class WandbRun:
    """A run in a project of Weights & Biases; a resumed run continues there under the same id.

    `WANDB_MODE=offline` keeps it in `workdir/wandb/` for a later `wandb sync`. Raises `ValueError` if wandb is not
    installed.
    """

    def __init__(self, workdir: pathlib.Path, settings: RunSettings):
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                f"monitor.wandb is {settings.monitor.wandb!r}, but wandb is not installed. Run `pip install wandb`, or "
                "set monitor.wandb to None."
            ) from error
        path = workdir / RUN_FILE
        if not path.is_file():
            write_json(path, {"id": secrets.token_hex(4)})
        self._run = wandb.init(
            project=settings.monitor.wandb,
            name=workdir.name,
            id=json.loads(path.read_text(encoding="utf-8"))["id"],
            resume="allow",
            dir=workdir,
            config=dataclasses.asdict(settings),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        """Send the remaining metrics."""
        self._run.finish()

"""The metrics of a run at Weights & Biases."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import secrets
from collections.abc import Mapping

from pretrain.config.run import PretrainSettings

RUN_FILE = "wandb.json"


class WandbRun:
    """A run in a project; a run that continues in the same workdir is the same run there.

    `WANDB_MODE=offline` keeps it in `workdir/wandb/`, for `wandb sync` later. Raises `ValueError` where wandb is not
    installed.
    """

    def __init__(self, workdir: pathlib.Path, settings: PretrainSettings):
        try:
            import wandb
        except ImportError as error:
            raise ValueError("monitor.wandb needs the package wandb; `pip install wandb`, or set it to None") from error
        path = workdir / RUN_FILE
        if not path.is_file():
            path.write_text(json.dumps({"id": secrets.token_hex(4)}) + "\n", encoding="utf-8")
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
        """Sends the metrics of a step."""
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()

"""Evaluation during training: all hosts embed, then the first one fits and classifies while training continues."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax

from adapt.embedding.cache import SINGLE_HOST
from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.datasets import open_inputs
from adapt.evaluation.run import checkpoint_names, embed, evaluate
from adapt.evaluation.summary import mean_scalars
from foundation.log import silenced

CACHE = "embeddings"


class EvaluationInTraining:
    """Evaluate the exports of a run, each in its own folder.

    Raises as `open_inputs` does where datasets are missing, before training starts.
    """

    def __init__(self, settings: EvaluateSettings, data_dir: str | os.PathLike):
        if settings.features:
            raise ValueError(
                "evaluate.features cannot be evaluated in training: they are not by the checkpoint. Set it in a config "
                "of its own."
            )
        self.settings = dataclasses.replace(settings, baselines=())  # they are the same at every step
        self.data_dir = data_dir
        self._inputs = open_inputs(settings, data_dir)

    def __call__(self, step: int, export: pathlib.Path) -> Callable[[], Mapping[str, float]]:
        """Embed on all hosts; return a function that computes the results on this host's CPU alone.

        The function writes the rows to `results.jsonl` next to the export and returns their means by name. It removes
        the embeddings, which no other checkpoint can use.
        """
        cache = export.parent / CACHE
        with silenced("adapt", "models"):
            embed(export, self.settings, self._inputs, cache=cache)

        def finish() -> dict[str, float]:
            with jax.default_device(_cpu()), silenced("adapt", "models"):
                rows = evaluate(
                    checkpoint_names([os.fspath(export)]),
                    self.settings,
                    out=export.parent,
                    cache=cache,
                    inputs=self._inputs,
                    hosts=SINGLE_HOST,
                    data_dir=self.data_dir,
                )
            shutil.rmtree(cache)
            return mean_scalars(rows)

        return finish


def _cpu() -> Any:
    """Return a device that training does not use: the CPU, if JAX has one in addition to accelerators."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]

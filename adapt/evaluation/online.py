"""Evaluation of a run that goes on: all hosts embed, then the first one fits and classifies beside the training."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax

from adapt.embedding.cache import ALONE
from adapt.evaluation.datasets import open_inputs
from adapt.evaluation.run import EvaluateSettings, checkpoint_names, embed, evaluate
from adapt.evaluation.summary import scalars_of
from foundation.log import silenced

CACHE = "embeddings"


class EvaluationInTraining:
    """Evaluates exports of a run, each in the folder that it lies in.

    Raises as `open_inputs` does where datasets are not there, before anything is trained.
    """

    def __init__(self, settings: EvaluateSettings, data_dir: str | os.PathLike):
        self.settings, self.data_dir = settings, data_dir
        self._inputs = open_inputs(settings, data_dir)

    def __call__(self, step: int, export: pathlib.Path) -> Callable[[], Mapping[str, float]]:
        """Embeds with all hosts; returns what computes the results from that, on this host's processor alone.

        The rows go to `results.jsonl` beside the export, their means are returned by name; the embeddings, which no
        other checkpoint has, are removed.
        """
        cache = export.parent / CACHE
        with silenced("adapt", "models"):
            embed(export, self.settings, self._inputs, cache=cache)

        def finish() -> dict[str, float]:
            with jax.default_device(_processor()), silenced("adapt", "models"):
                rows = evaluate(
                    checkpoint_names([os.fspath(export)]),
                    self.settings,
                    out=export.parent,
                    cache=cache,
                    inputs=self._inputs,
                    hosts=ALONE,
                    data_dir=self.data_dir,
                )
            shutil.rmtree(cache)
            return scalars_of(rows)

        return finish


def _processor() -> Any:
    """Returns a device that training does not wait for: the processor, where JAX has it beside accelerators."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]

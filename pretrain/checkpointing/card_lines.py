"""The lines of a model card that describe how a run was trained."""

from __future__ import annotations

import json
import pathlib

from models.checkpoints.model_card import shortened
from pretrain.config.training import RunSettings
from pretrain.data_identity import DATA_FILE
from pretrain.losses.context_objective import Objective
from pretrain.monitoring.metric_writer import read_metrics


def describe_training(workdir: pathlib.Path, settings: RunSettings, step: int) -> dict[str, str]:
    """Return lines about the run in `workdir` up to a step, by name."""
    path = workdir / DATA_FILE
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    lines = {
        "data": "; ".join(
            f"{shortened(part['source'])}: {part['samples']:,} samples (fingerprint {part['fingerprint']})"
            for part in data
        )
    }
    lines["steps"] = f"{step:,} of {settings.batch_size:,} pairs, {step * settings.batch_size:,} pairs in all"
    lines["objective"] = _describe(settings.objective)
    optimizer = settings.optimizer
    lines["optimizer"] = (
        f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, {optimizer.schedule}, "
        f"weight decay {optimizer.weight_decay:g}"
        + (f", layer decay {optimizer.layer_decay:g}" if optimizer.layer_decay < 1 else "")
        + (f", frozen: {', '.join(optimizer.frozen)}" if optimizer.frozen else "")
    )
    lines["computed in"] = settings.dtype
    lines["seed"] = str(settings.seed)
    measured = [line for line in read_metrics(workdir / "metrics.jsonl") if line["step"] <= step and "loss" in line]
    if measured:
        lines["final loss"] = f"{measured[-1]['loss']:.4g}"
    return lines


def _describe(objective: Objective) -> str:
    names = {"sigmoid": "sigmoid loss (SigLIP)", "softmax": "softmax loss (CLIP)"}
    base = names.get(objective.base, f"{objective.base} loss")
    if not objective.context:
        return base
    return f"{base} with the context objective (LIxP, arXiv 2411.15099), alpha {objective.alpha:g}"

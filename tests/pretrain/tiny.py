"""A pretraining config small enough for tests, a program that trains it, and comparisons of runs."""

import pathlib

import jax
import numpy as np

from pretrain.checkpointing.manager import restore_parameters
from pretrain.monitoring.metric_writer import read_metrics

TIMES = ("seconds", "pairs_per_second", "pairs_per_second_per_device", "data_wait_share", "replaced_records")
TIMES += ("run_seconds", "host_memory_gb")


def config(shards: str, **changes) -> dict:
    """Return the `pretrain` section of a config that trains on the given shards."""
    return {
        "seed": 0,
        "steps": 9,
        "batch_size": 8,
        "vision": {"image_size": 8, "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "mlp_width": 32},
        "text": {"length": 6, "width": 16, "depth": 1, "heads": 2, "mlp_width": 32},
        "tokenizer": {"name": "train:60"},
        "data": {"sources": (shards,), "caption": "random", "threads": 2},
        "augmentation": {"color_jitter": 0.3, "keep_patches": 0.5},
        "objective": {"base": "sigmoid"},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "log_every": 2,
        "checkpoint_every": 2,
        **changes,
    }


def same_parameters(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Return whether two runs have the same newest step and bitwise the same parameters."""
    (step, a), (other_step, b) = (restore_parameters(workdir / "checkpoints") for workdir in (one, other))
    return step == other_step and all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def metrics_without_times(workdir: pathlib.Path) -> list[dict]:
    """Return the metrics of a run without those that depend on the machine."""
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def final_checkpoints(workdir: pathlib.Path) -> list[str]:
    """Return the names of the complete checkpoints of a run."""
    return [path.name for path in (workdir / "checkpoints").glob("step_*") if path.name[5:].isdigit()]

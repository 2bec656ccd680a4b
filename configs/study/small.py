"""The main comparison: SigLIP with and without context, three seeds, large towers, 100,000 pairs each.

    python -m benchmarks.study.tables small --data=FOLDER

Every training-free method evaluates it. Hardware: two CPU cores. Time: 26 minutes. Expected: no difference that three
seeds can resolve (docs/results/study.md).
"""

from ml_collections import ConfigDict

from configs import grid
from configs.study.base import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter", "tip_x", "ape", "gda", "proker")
    return config


def get_sweep() -> list[dict]:
    return grid(
        {
            "pretrain.seed": (0, 1, 2),
            "pretrain.objective.context": (False, True),
        }
    )

"""CLIP's loss with and without context: small towers, two seeds, 100,000 pairs.

    python -m benchmarks.study.tables softmax

Hardware: two CPU cores. Time: 10 minutes. Expected: no difference (docs/results/study.md).
"""

from ml_collections import ConfigDict

from configs import grid
from configs.study.ablations import get_config as small_evaluation


def get_config() -> ConfigDict:
    config = small_evaluation()
    config.pretrain.objective.base = "softmax"  # CLIP's loss
    return config


def get_sweep() -> list[dict]:
    return grid(
        {
            "pretrain.seed": (0, 1),
            "pretrain.objective.context": (False, True),
        }
    )

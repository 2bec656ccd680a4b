"""Accuracy of the towers before training: one step with a negligible learning rate, large towers, three seeds.

    python -m benchmarks.study.tables untrained

Hardware: two CPU cores. Time: 5 minutes. Expected: 13.7 % zero-shot and 25.0 % with 16-shot prototypes, averaged over
the eleven sets (docs/results/study.md).
"""

from ml_collections import ConfigDict

from configs import grid
from configs.study.base import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.pretrain.examples = config.pretrain.batch_size  # one step
    config.pretrain.optimizer.learning_rate = 1e-12  # negligible
    config.pretrain.optimizer.warmup_steps = 0
    return config


def get_sweep() -> list[dict]:
    return grid(
        {
            "pretrain.seed": (0, 1, 2),
            "pretrain.objective.context": (False,),
        }
    )

"""What towers know before any training, for docs/STUDY.md: one step at no learning rate to speak of, large towers."""

from ml_collections import ConfigDict

from configs import grid
from configs.study.base import get_config as study


def get_config() -> ConfigDict:
    config = study()
    config.pretrain.examples = config.pretrain.batch_size
    config.pretrain.optimizer.learning_rate = 1e-12
    config.pretrain.optimizer.warmup_steps = 0
    return config


def get_sweep() -> list[dict]:
    return grid({"pretrain.seed": (0, 1, 2), "pretrain.objective.context": (False,)})

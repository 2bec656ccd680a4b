"""CLIP's loss with and without context, for docs/STUDY.md: small towers, two seeds, 100,000 pairs."""

from ml_collections import ConfigDict

from configs import grid
from configs.study.ablations import get_config as small_evaluation


def get_config() -> ConfigDict:
    config = small_evaluation()
    config.pretrain.objective.base = "softmax"
    return config


def get_sweep() -> list[dict]:
    return grid({"pretrain.seed": (0, 1), "pretrain.objective.context": (False, True)})

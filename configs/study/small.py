"""The smallest table of docs/STUDY.md: SigLIP with and without context, three seeds, 100,000 pairs each.

It is asked with all training-free methods.
"""

from ml_collections import ConfigDict

from configs import grid
from configs.study.base import get_config as study


def get_config() -> ConfigDict:
    config = study()
    config.evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter", "tip_x", "ape", "gda", "proker")
    return config


def get_sweep() -> list[dict]:
    return grid({"pretrain.seed": (0, 1, 2), "pretrain.objective.context": (False, True)})

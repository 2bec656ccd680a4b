"""The pair of `checkpoints/`: SigLIP with and without context on drawings that anybody may pass on.

Open Clip Art (public domain) and the emoji of two artists; the third's are for its evaluation.
"""

from ml_collections import ConfigDict

from configs import grid
from configs.study.base import DATA
from configs.study.base import get_config as study


def get_config() -> ConfigDict:
    config = study()
    config.pretrain.examples = 400_000
    config.pretrain.data.sources = (f"{DATA}/pretrain/openclipart/train-*.tar", "emoji:noto", "emoji:twemoji")
    config.pretrain.augmentation.crop_area = (0.7, 1.0)
    config.pretrain.augmentation.flip = 0.0
    config.evaluate.retrieval = ("emoji:fluent3d", f"{DATA}/pretrain/openclipart/test-*.tar")
    config.evaluate.caption = "first"
    return config


def get_sweep() -> list[dict]:
    return grid({"pretrain.objective.context": (False, True)})

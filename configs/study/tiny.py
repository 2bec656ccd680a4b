"""A second size and budget for docs/STUDY.md: small towers, 100,000 and 400,000 pairs, three seeds."""

from ml_collections import ConfigDict

from configs import grid
from configs.study.base import get_config as study


def get_config() -> ConfigDict:
    config = study()
    config.pretrain.vision = ConfigDict(dict(image_size=48, patch_size=8, width=64, depth=3, heads=2, mlp_width=256))
    config.pretrain.text = ConfigDict(dict(length=16, width=64, depth=2, heads=2, mlp_width=256))
    return config


def get_sweep() -> list[dict]:
    return grid(
        {
            "pretrain.input_pipeline": (100_000, 400_000),
            "pretrain.seed": (0, 1, 2),
            "pretrain.objective.context": (False, True),
        }
    )

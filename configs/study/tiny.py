"""A second model size and a second budget: small towers, 100,000 and 400,000 pairs, three seeds.

    python -m benchmarks.study.tables tiny

Hardware: two CPU cores. Time: about an hour. Expected: context costs 0.2 to 0.9 points after 400,000 pairs
(docs/results/study.md).
"""

from ml_collections import ConfigDict

from configs import grid
from configs.study.base import get_config as base


def get_config() -> ConfigDict:
    config = base()

    config.pretrain.vision = vision = ConfigDict()  # small towers: 0.6 million parameters in all
    vision.image_size = 48  # pixels
    vision.patch_size = 8  # pixels
    vision.width = 64
    vision.depth = 3  # layers
    vision.heads = 2
    vision.mlp_width = 256

    config.pretrain.text = text = ConfigDict()
    text.length = 16  # tokens
    text.width = 64
    text.depth = 2  # layers
    text.heads = 2
    text.mlp_width = 256
    return config


def get_sweep() -> list[dict]:
    return grid(
        {
            "pretrain.examples": (100_000, 400_000),  # pairs seen
            "pretrain.seed": (0, 1, 2),
            "pretrain.objective.context": (False, True),
        }
    )

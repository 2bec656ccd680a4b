"""The pair in `checkpoints/`: SigLIP with and without context on drawings with a free licence.

    python -m benchmarks.study.tables drawings

Trains on Open Clip Art (public domain) and the emoji of two artists, and evaluates retrieval on a third artist's.
Hardware: two CPU cores. Time: about 50 minutes. Expected: no difference beyond the spread of the datasets
(docs/results/study.md).
"""

from ml_collections import ConfigDict

from configs import grid
from configs.study.base import DATA
from configs.study.base import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.pretrain.examples = 400_000  # pairs seen
    config.pretrain.data.sources = (f"{DATA}/pretrain/openclipart/train-*.tar", "emoji:noto", "emoji:twemoji")
    config.pretrain.augmentation.crop_area = (0.7, 1.0)  # fraction of the image area
    config.pretrain.augmentation.flip = 0.0  # drawings may hold text
    config.evaluate.retrieval = ("emoji:fluent3d", f"{DATA}/pretrain/openclipart/test-*.tar")
    config.evaluate.caption = "first"
    return config


def get_sweep() -> list[dict]:
    return grid({"pretrain.objective.context": (False, True)})

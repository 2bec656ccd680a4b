"""Two variants of the context objective that its paper does not have: attention by texts, and a memory. One seed.

    python -m benchmarks.study.tables variants

The settings `neighbours` and `memory` belong to benchmarks/study/variant_objective.py. It runs the jobs of launch.py
with them, which launch.py alone would reject:

    python -m benchmarks.study.variant_objective pretrain --config=configs/study/variants.py --workdir=runs/variant

Hardware: two CPU cores. Time: 20 minutes. Expected: neither helps (docs/results/study.md).
"""

from ml_collections import ConfigDict

from configs.study.ablations import get_config as small_evaluation


def get_config() -> ConfigDict:
    config = small_evaluation()
    config.pretrain.objective.neighbours = "images"  # attend by images, or by "texts"
    config.pretrain.objective.memory = 0  # images of earlier batches that are attended to as well
    config.pretrain.objective.context_temperature = 0.03  # initial value, times √dim
    return config


def get_sweep() -> list[dict]:
    grouped = [
        {"context": False},
        {"context": True, "neighbours": "images", "alpha": 0.5},
        {"context": True, "neighbours": "texts", "alpha": 0.5},
    ]
    shuffled = [
        {"context": False},
        {"context": True, "memory": 2560, "alpha": 0.5},
        {"context": True, "memory": 2560, "alpha": 0.0},
    ]
    return [
        {
            "pretrain.seed": seed,
            "pretrain.data.group_size": group_size,
            **{f"pretrain.objective.{key}": value for key, value in arm.items()},
        }
        for seed in (0,)
        for group_size, arms in ((1, shuffled), (4, grouped))
        for arm in arms
    ]

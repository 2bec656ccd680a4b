"""Batches that hold related samples: two views of each (three seeds) or four of similar texts (one seed), small towers.

    python -m benchmarks.study.tables episodes

Hardware: two CPU cores. Time: about 50 minutes. Expected: with two views and temperature 0.03 context gains on emoji;
nothing measurable on the eleven sets (docs/results/study.md).
"""

from configs.study.ablations import get_config

__all__ = ["get_config", "get_sweep"]

CONTEXTS = (  # of pretrain.objective
    {"context": False},
    {"context": True},
    {"context": True, "context_temperature": 0.03},
    {"context": True, "alpha": 0.5, "context_temperature": 0.03},
)


def get_sweep() -> list[dict]:
    return [
        {
            "pretrain.seed": seed,
            f"pretrain.data.{setting}": value,
            **{f"pretrain.objective.{key}": change for key, change in context.items()},
        }
        for setting, value, seeds in (("views", 2, 3), ("group_size", 4, 1))
        for seed in range(seeds)
        for context in CONTEXTS
    ]

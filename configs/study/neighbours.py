"""Batches of 4 or 16 samples with similar texts side by side, with and without context, large towers, one seed.

    python -m benchmarks.study.tables neighbours

Hardware: two CPU cores. Time: about 20 minutes. Expected: no consistent gain (docs/results/study.md).
"""

from configs import grid
from configs.study.base import get_config

__all__ = ["get_config", "get_sweep"]


def get_sweep() -> list[dict]:
    return grid(
        {
            "pretrain.seed": (0,),
            "pretrain.data.group_size": (4, 16),  # samples with similar texts
            "pretrain.objective.context": (False, True),
        }
    )

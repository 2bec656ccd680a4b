"""Batches in which each sample has neighbours, with and without context, for docs/STUDY.md: large towers, one seed."""

from configs import grid
from configs.study.base import get_config

__all__ = ["get_config", "get_sweep"]


def get_sweep() -> list[dict]:
    return grid(
        {
            "pretrain.seed": (0,),
            "pretrain.data.group_size": (4, 16),
            "pretrain.objective.context": (False, True),
        }
    )

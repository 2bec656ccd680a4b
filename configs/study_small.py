"""The smallest table of docs/STUDY.md: SigLIP with and without context, three seeds, 100,000 pairs each."""

from configs import grid
from configs.study import get_config

__all__ = ["get_config", "get_sweep"]


def get_sweep() -> list[dict]:
    return grid({"pretrain.seed": (0, 1, 2), "pretrain.objective.context": (False, True)})

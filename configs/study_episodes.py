"""Batches in which samples have neighbours by text or come as two views, for docs/STUDY.md: small towers, two seeds."""

from configs.study_ablations import get_config

__all__ = ["get_config", "get_sweep"]

CONTEXTS = (
    {"context": False},
    {"context": True},
    {"context": True, "context_temperature": 0.03},
    {"context": True, "alpha": 0.5, "context_temperature": 0.03},
)


def get_sweep() -> list[dict]:
    return [
        {
            "pretrain.seed": seed,
            f"pretrain.data.{together}": number,
            **{f"pretrain.objective.{key}": value for key, value in context.items()},
        }
        for seed in (0, 1)
        for together, number in (("views", 2), ("group_size", 4))
        for context in CONTEXTS
    ]

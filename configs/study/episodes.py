"""Batches of two views, three seeds, or of neighbours by text, one seed, for docs/STUDY.md: small towers."""

from configs.study.ablations import get_config

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
        for together, number, seeds in (("views", 2, 3), ("group_size", 4, 1))
        for seed in range(seeds)
        for context in CONTEXTS
    ]

"""What each part of the context objective is worth in docs/STUDY.md: one change at a time, two seeds."""

from configs.study import get_config

__all__ = ["get_config", "get_sweep"]

CHANGES = (
    {},
    {"alpha": 0.5},
    {"alpha": 0.98},
    {"self_mask": False},
    {"stop_gradient": ("values",)},
    {"shared_logit_scale": True},
    {"normalized_values": True},
    {"context_temperature": 0.03},
    {"context_temperature": 0.3},
)


def get_sweep() -> list[dict]:
    arms = [{"context": False}, *({"context": True, **change} for change in CHANGES)]
    return [
        {"pretrain.seed": seed, **{f"pretrain.objective.{key}": value for key, value in arm.items()}}
        for seed in (0, 1)
        for arm in arms
    ]

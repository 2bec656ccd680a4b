"""Ablations of the context objective: one change at a time, small towers, two seeds.

    python -m benchmarks.study.tables ablations

Hardware: two CPU cores. Time: about 50 minutes. Expected: most differences are within the spread of seeds
(docs/results/study.md).
"""

from ml_collections import ConfigDict

from configs.study.tiny import get_config as tiny

CHANGES = (  # of pretrain.objective
    {},
    {"alpha": 0.5},
    {"alpha": 0.98},
    {"self_mask": False},
    {"stop_gradient": ("values",)},
    {"shared_logit_scale": True},
    {"normalized_values": True},
    {"context_temperature": 0.03},
    {"context_temperature": 0.3},
    {"alpha": 0.5, "context_temperature": 0.03},
)
LARGE_BATCH = {
    "pretrain.batch_size": 1024,
    "pretrain.objective.logit_bias": -6.9,  # −log(1024)
}


def get_config() -> ConfigDict:
    config = tiny()
    config.evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    config.evaluate.shots = (1, 4, 16)
    return config


def get_sweep() -> list[dict]:
    arms = [{"context": False}, *({"context": True, **change} for change in CHANGES)]
    arms = [{f"pretrain.objective.{key}": value for key, value in arm.items()} for arm in arms]
    arms.append(
        {
            "pretrain.objective.context": True,
            "pretrain.optimizer.context_temperature_learning_rate": 10.0,  # times learning_rate
        }
    )
    arms += [{**LARGE_BATCH, "pretrain.objective.context": context} for context in (False, True)]
    return [{"pretrain.seed": seed, **arm} for seed in (0, 1) for arm in arms]

"""The context objective as post-training: 100,000 pairs with and without it, after 400,000 without, three seeds.

    python -m benchmarks.study.tables tiny
    python -m benchmarks.study.tables post_training

It continues the exports of the first command. Hardware: two CPU cores. Time: 15 minutes, after the first command.
Expected: no difference (docs/results/study.md).
"""

from ml_collections import ConfigDict

from configs.study.ablations import get_config as small_evaluation

BEFORE = "runs/study/tiny/examples=400000,seed={},context=False/export"


def get_config() -> ConfigDict:
    config = small_evaluation()
    config.pretrain.initial_checkpoint = BEFORE.format(0)
    for section in ("vision", "text", "tokenizer"):  # these come from the checkpoint
        del config.pretrain[section]
    del config.pretrain.objective["logit_bias"]  # so does this
    config.pretrain.optimizer.learning_rate = 5e-4  # a quarter of that from scratch
    return config


def get_sweep() -> list[dict]:
    contexts = (
        {"context": False},
        {"context": True},
        {"context": True, "alpha": 0.5, "context_temperature": 0.03},
    )
    return [
        {
            "pretrain.seed": seed,
            "pretrain.initial_checkpoint": BEFORE.format(seed),
            **{f"pretrain.objective.{key}": value for key, value in context.items()},
        }
        for seed in (0, 1, 2)
        for context in contexts
    ]

"""Context as post-training, for docs/STUDY.md: the last fifth of 500,000 pairs, after 400,000 without it.

It continues the exports of `study_tiny.py`, which is to run first.
"""

from ml_collections import ConfigDict

from configs.study.ablations import get_config as small_evaluation

BEFORE = "runs/study/tiny/examples=400000,seed={},context=False/export"


def get_config() -> ConfigDict:
    config = small_evaluation()
    config.pretrain.initial_checkpoint = BEFORE.format(0)
    for given_by_checkpoint in ("vision", "text", "tokenizer"):
        del config.pretrain[given_by_checkpoint]
    del config.pretrain.objective["logit_bias"]
    config.pretrain.optimizer.learning_rate = 5e-4
    return config


def get_sweep() -> list[dict]:
    contexts = ({"context": False}, {"context": True}, {"context": True, "alpha": 0.5, "context_temperature": 0.03})
    return [
        {
            "pretrain.seed": seed,
            "pretrain.initial_checkpoint": BEFORE.format(seed),
            **{f"pretrain.objective.{key}": value for key, value in context.items()},
        }
        for seed in (0, 1, 2)
        for context in contexts
    ]

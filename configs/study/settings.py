"""Which settings docs/STUDY.md uses: chosen on the mixture's validation splits, an artist's emoji and digits alone."""

from ml_collections import ConfigDict

from configs.study.base import DATA, VALIDATION
from configs.study.base import get_config as study


def get_config() -> ConfigDict:
    config = study()
    config.evaluate.datasets = ("emoji", "digits")
    config.evaluate.own = dict(emoji=dict(support="emoji:fluent3d", template="{}"))
    config.evaluate.min_examples = 20
    config.evaluate.retrieval = ("emoji:fluent3d", *(f"{DATA}/pretrain/{shards}" for shards in VALIDATION))
    config.evaluate.caption = "first"
    return config


def get_sweep() -> list[dict]:
    rates = ((256, 1e-3), (256, 2e-3), (128, 1e-3), (1024, 2e-3), (1024, 4e-3))
    return [
        {
            "pretrain.batch_size": batch_size,
            "pretrain.optimizer.learning_rate": rate,
            "pretrain.objective.logit_bias": {128: -4.8, 256: -5.5, 1024: -6.9}[batch_size],
            "pretrain.objective.context": False,
        }
        for batch_size, rate in rates
    ]

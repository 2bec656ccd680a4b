"""Batch size and learning rate of the study, chosen without looking at its eleven target sets.

    python launch.py submit --target=local --config=configs/study/settings.py --workdir=runs/study/settings \\
        --jobs=pretrain,export,evaluate

The validation splits of the training sets, a third artist's emoji and scikit-learn's digits decide. Hardware: two CPU
cores. Time: about an hour. Expected: docs/study/settings.csv; batches of 256 at 2e-3 are chosen.
"""

from ml_collections import ConfigDict

from configs.study.base import DATA, VALIDATION
from configs.study.base import get_config as base

LOGIT_BIAS = {128: -4.8, 256: -5.5, 1024: -6.9}  # −log(batch_size)


def get_config() -> ConfigDict:
    config = base()
    config.evaluate.datasets = ("emoji", "digits")
    config.evaluate.custom_datasets = dict(emoji=dict(support="emoji:fluent3d", template="{}"))
    config.evaluate.min_examples = 20  # classes with fewer images are left out
    config.evaluate.retrieval = ("emoji:fluent3d", *(f"{DATA}/pretrain/{shards}" for shards in VALIDATION))
    config.evaluate.caption = "first"
    return config


def get_sweep() -> list[dict]:
    rates = ((256, 1e-3), (256, 2e-3), (128, 1e-3), (1024, 2e-3), (1024, 4e-3))
    return [
        {
            "pretrain.batch_size": batch_size,
            "pretrain.optimizer.learning_rate": rate,
            "pretrain.objective.logit_bias": LOGIT_BIAS[batch_size],
            "pretrain.objective.context": False,
        }
        for batch_size, rate in rates
    ]

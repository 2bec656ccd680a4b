"""Few-shot evaluation of any checkpoints on labelled sets, without a run of their own.

    python launch.py evaluate --checkpoint=google/siglip-base-patch16-224,mine=runs/mine/export \\
        --datasets=caltech101,oxford_flowers102,/data/birds --data_dir=/data/tfds --workdir=runs/compared
    python launch.py report --workdir=runs/compared

`/data/birds` is a folder with the splits of a set, `train-*.tar` and `test-*.tar`, or `train/` and `test/` of class
folders. Anything else is described in three lines, as `flowers` here, and named in `datasets`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"

    config.evaluate = ConfigDict(dict(datasets=(), retrieval=()))
    config.evaluate.own = dict(
        flowers=dict(support="/data/flowers/known/", query="/data/flowers/new/", template="a photo of a {}, a flower.")
    )
    config.evaluate.tasks = ("zero_shot", "few_shot")
    config.evaluate.shots = (1, 2, 4, 8, 16)
    config.evaluate.seeds = 5
    config.evaluate.logit_scale = 100.0
    return config

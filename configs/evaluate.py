"""Few-shot and zero-shot evaluation of any checkpoints on labelled datasets, without a pretraining run.

    python launch.py evaluate --checkpoint=google/siglip-base-patch16-224,mine=runs/mine/export \\
        --datasets=caltech101,oxford_flowers102,/data/birds --data_dir=/data/tfds --workdir=runs/compared
    python launch.py report --workdir=runs/compared

`/data/birds` is a folder with `train-*.tar` and `test-*.tar`, or with `train/` and `test/` that hold one folder per
class. Any other layout is described like `flowers` below and named in `datasets`.

Hardware: CPUs, GPUs or TPUs. Time: mostly that of embedding the images once; docs/results/performance.md has figures
for two CPU cores. Expected: `results.jsonl` and `report.html` in the workdir.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"  # downloads, shard indexes and embedding cache

    config.evaluate = evaluate = ConfigDict()
    evaluate.datasets = ()  # --datasets
    evaluate.retrieval = ()  # image-text shards for recall in both directions
    evaluate.custom_datasets = dict(
        flowers=dict(
            support="/data/flowers/known/",  # support images are drawn from here
            query="/data/flowers/new/",  # all of these are classified
            template="a photo of a {}, a flower.",
        )
    )
    evaluate.tasks = ("zero_shot", "few_shot")
    evaluate.shots = (1, 2, 4, 8, 16)
    evaluate.seeds = 5  # random draws of the support set
    evaluate.logit_scale = 100.0  # of text logits, whatever the checkpoint learned
    return config

"""The whole path on the embedded emoji set: pretrain, export, evaluate, report.

    python launch.py quickstart

Two CPU cores, about five minutes, 1.3 GB. Trains on two artists; on the third's pictures expect text→image recall@10
of about 21 % of 1,607 (chance 0.6 %) and 16-shot accuracy of about 39 % over 29 classes (chance 3.4 %).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"

    config.pretrain = pretrain = ConfigDict()
    pretrain.seed = 0
    pretrain.steps = 1400
    pretrain.batch_size = 64
    pretrain.vision = ConfigDict(dict(image_size=32, patch_size=4, width=96, depth=4, heads=3, mlp_width=384))
    pretrain.text = ConfigDict(dict(length=20, width=96, depth=2, heads=3, mlp_width=384))
    pretrain.tokenizer = ConfigDict(dict(name="train:2048"))
    pretrain.data = ConfigDict(dict(sources=("emoji:noto", "emoji:twemoji"), caption="all", threads=2))
    pretrain.augmentation = ConfigDict(dict(crop_area=(0.9, 1.0), crop_aspect=(0.9, 1.1), keep_patches=0.5))
    pretrain.objective = ConfigDict(dict(base="sigmoid", context=True, alpha=0.9, logit_bias=-4.0))
    pretrain.optimizer = ConfigDict(dict(learning_rate=1e-3, warmup_steps=50, weight_decay=1e-4))
    pretrain.dtype = "float32"
    pretrain.scan_unroll = 4
    pretrain.log_every = 50
    pretrain.checkpoint_every = 200

    config.evaluate = ConfigDict(dict(datasets=("emoji", "digits"), retrieval=("emoji:fluent3d",)))
    config.evaluate.own = dict(emoji=dict(support="emoji:fluent3d", template="{}"))
    config.evaluate.caption = "all"
    config.evaluate.shots = (1, 2, 4, 8, 16)
    config.evaluate.seeds = 5
    config.evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    config.evaluate.min_examples = 20
    config.evaluate.logit_scale = 100.0
    return config

"""A run of docs/STUDY.md: from scratch on photos, drawings, emoji and products, then eleven sets of other pictures.

    python benchmarks/study/tables.py small --data=FOLDER

`study_*.py` beside this are its sweeps; `FOLDER`, to which that command links as `runs/study/data`, has `pretrain/SET/`
and `targets/SET/` with shards.
"""

from ml_collections import ConfigDict

DATA = "runs/study/data"
TRAINING = ("flickr8k/train-*.tar", "fashion9k/train-*.tar", "openclipart/train-*.tar", "imagenet1/train-*.tar")
VALIDATION = ("flickr8k/dev-*.tar", "fashion9k/test-*.tar", "openclipart/test-*.tar")
THINGS = ("caltech101", "flowers5", "pacs", "intel", "trashnet", "clothing")  # of which captions may speak
OTHERS = ("gtsrb", "signdigits", "brain_tumor", "wbc", "neu_det")  # of which none does
TARGETS = THINGS + OTHERS


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/study/cache"

    config.pretrain = pretrain = ConfigDict()
    pretrain.seed = 0
    pretrain.examples = 100_000
    pretrain.batch_size = 256
    pretrain.vision = ConfigDict(dict(image_size=48, patch_size=6, width=96, depth=4, heads=3, mlp_width=384))
    pretrain.text = ConfigDict(dict(length=24, width=96, depth=2, heads=3, mlp_width=384))
    pretrain.tokenizer = ConfigDict(dict(name="train:4096"))
    sources = (*(f"{DATA}/pretrain/{shards}" for shards in TRAINING), "emoji:noto", "emoji:twemoji")
    pretrain.data = ConfigDict(dict(sources=sources, caption="random", threads=2))
    pretrain.augmentation = ConfigDict(dict(crop_area=(0.5, 1.0), crop_aspect=(0.8, 1.25), flip=0.5, keep_patches=0.5))
    pretrain.objective = ConfigDict(dict(base="sigmoid", context=True, alpha=0.9, logit_bias=-5.5))
    pretrain.objective.context_temperature = 0.1
    pretrain.optimizer = ConfigDict(dict(learning_rate=2e-3, warmup_steps=50, weight_decay=1e-4))
    pretrain.scan_unroll = 4
    pretrain.log_every = 20
    pretrain.checkpoint_every = 500
    pretrain.keep_checkpoints = 1

    config.evaluate = evaluate = ConfigDict()
    evaluate.datasets = TARGETS
    folder = f"{DATA}/targets"
    own = {
        name: dict(support=f"{folder}/{name}/train-*.tar", query=f"{folder}/{name}/test-*.tar", template="{}")
        for name in TARGETS
    }
    own["pacs"] = dict(support=f"{folder}/pacs/*.tar", template="{}")  # of four domains: what is not drawn is asked
    evaluate.own = own
    evaluate.retrieval = (f"{DATA}/pretrain/flickr8k/test-*.tar",)
    evaluate.caption = "each"
    evaluate.shots = (1, 2, 4, 8, 16)
    evaluate.seeds = 5
    evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter", "gda", "proker")
    evaluate.logit_scale = 100.0
    return config

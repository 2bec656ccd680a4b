"""Base config of the study's runs: train from scratch on five sets, evaluate on eleven others.

    python -m benchmarks.study.tables small --data=FOLDER

That command links FOLDER as `runs/study/data`; it holds shards in `pretrain/SET/` and `targets/SET/`. The other files
of this folder are the study's sweeps.

Hardware: two CPU cores. Time: about 13 minutes per run of 100,000 pairs, on one core. Expected result:
docs/results/study.md.
"""

from ml_collections import ConfigDict

DATA = "runs/study/data"
TRAINING = ("flickr8k/train-*.tar", "fashion9k/train-*.tar", "openclipart/train-*.tar", "imagenet1/train-*.tar")
VALIDATION = ("flickr8k/dev-*.tar", "fashion9k/test-*.tar", "openclipart/test-*.tar")
COVERED = ("caltech101", "flowers5", "pacs", "intel", "trashnet", "clothing")  # captions may mention their classes
UNCOVERED = ("gtsrb", "signdigits", "brain_tumor", "wbc", "neu_det")  # no caption does
TARGETS = COVERED + UNCOVERED


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/study/cache"  # shard indexes and embedding cache

    config.pretrain = pretrain = ConfigDict()
    pretrain.seed = 0  # of the weights, the sample order and the augmentation
    pretrain.examples = 100_000  # pairs seen: four epochs
    pretrain.batch_size = 256  # image-text pairs per step

    pretrain.vision = vision = ConfigDict()  # large towers: 1.2 million parameters in all
    vision.image_size = 48  # pixels
    vision.patch_size = 6  # pixels
    vision.width = 96
    vision.depth = 4  # layers
    vision.heads = 3
    vision.mlp_width = 384

    pretrain.text = text = ConfigDict()
    text.length = 24  # tokens
    text.width = 96
    text.depth = 2  # layers
    text.heads = 3
    text.mlp_width = 384

    pretrain.tokenizer = tokenizer = ConfigDict()
    tokenizer.name = "train:4096"  # train a tokenizer of 4,096 ids on the captions

    pretrain.data = data = ConfigDict()
    data.sources = (*(f"{DATA}/pretrain/{shards}" for shards in TRAINING), "emoji:noto", "emoji:twemoji")
    data.caption = "random"  # one of a sample's captions, drawn each time
    data.threads = 2  # decoding threads

    pretrain.augmentation = augmentation = ConfigDict()
    augmentation.crop_area = (0.5, 1.0)  # fraction of the image area
    augmentation.crop_aspect = (0.8, 1.25)  # width over height
    augmentation.flip = 0.5  # probability
    augmentation.keep_patches = 0.5  # fraction of patches that the image tower processes

    pretrain.objective = objective = ConfigDict()
    objective.base = "sigmoid"  # SigLIP's loss
    objective.context = True  # add the context objective
    objective.alpha = 0.9  # weight of the base loss; the context objective has 1 − alpha
    objective.logit_bias = -5.5  # initial value, about −log(batch_size)
    objective.context_temperature = 0.1  # initial value, times √dim

    pretrain.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 2e-3  # chosen by settings.py
    optimizer.warmup_steps = 50
    optimizer.weight_decay = 1e-4

    pretrain.scan_unroll = 4  # layers unrolled in one scan step; faster on CPUs
    pretrain.log_every = 20  # steps
    pretrain.checkpoint_every = 500  # steps
    pretrain.keep_checkpoints = 1

    config.evaluate = evaluate = ConfigDict()
    evaluate.datasets = TARGETS
    folder = f"{DATA}/targets"
    own = {
        name: dict(support=f"{folder}/{name}/train-*.tar", query=f"{folder}/{name}/test-*.tar", template="{}")
        for name in TARGETS
    }
    own["pacs"] = dict(support=f"{folder}/pacs/*.tar", template="{}")  # four domains; images not drawn are the queries
    evaluate.custom_datasets = own
    evaluate.retrieval = (f"{DATA}/pretrain/flickr8k/test-*.tar",)
    evaluate.caption = "each"  # every caption is a query
    evaluate.shots = (1, 2, 4, 8, 16)
    evaluate.seeds = 5  # random draws of the support set
    evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter", "gda", "proker")
    evaluate.logit_scale = 100.0  # of text logits, whatever the checkpoint learned
    return config

"""Pretrain two small towers from scratch on the sample emoji.

    python launch.py pretrain --config=configs/emoji.py --workdir=runs/towers
    python launch.py export   --config=configs/emoji.py --workdir=runs/towers
    python launch.py evaluate --config=configs/emoji.py --workdir=runs/towers
    python launch.py report   --workdir=runs/towers

Hardware: two CPU cores, 1.3 GB of memory. Time: about five minutes. Expected: the run trains on the emoji of two
artists and is evaluated on those of a third, with text→image recall@10 of about 21 % on 1,607 images (chance 0.6 %) and
16-shot accuracy of about 39 % on 29 classes (chance 3.4 %; the nearest neighbour on 16 × 16 raw pixels reaches 48 %).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"  # downloads and shard indexes

    config.pretrain = pretrain = ConfigDict()
    pretrain.seed = 0  # of the weights, the sample order and the augmentation
    pretrain.steps = 1400
    pretrain.batch_size = 64  # image-text pairs per step, over all devices

    pretrain.vision = vision = ConfigDict()
    vision.image_size = 32  # pixels
    vision.patch_size = 4  # pixels
    vision.width = 96
    vision.depth = 4  # layers
    vision.heads = 3
    vision.mlp_width = 384

    pretrain.text = text = ConfigDict()
    text.length = 20  # tokens
    text.width = 96
    text.depth = 2  # layers
    text.heads = 3
    text.mlp_width = 384

    pretrain.tokenizer = tokenizer = ConfigDict()
    tokenizer.name = "train:2048"  # train a tokenizer of 2,048 ids on the captions

    pretrain.data = data = ConfigDict()
    data.sources = ("emoji:noto", "emoji:twemoji")  # two artists
    data.caption = "all"  # join all captions of a sample
    data.threads = 2  # decoding threads

    pretrain.augmentation = augmentation = ConfigDict()
    augmentation.crop_area = (0.9, 1.0)  # fraction of the image area
    augmentation.crop_aspect = (0.9, 1.1)  # width over height
    augmentation.keep_patches = 0.5  # fraction of patches that the image tower processes

    pretrain.objective = objective = ConfigDict()
    objective.base = "sigmoid"  # SigLIP's loss
    objective.context = True  # add the context objective
    objective.alpha = 0.9  # weight of the base loss; the context objective has 1 − alpha
    objective.logit_bias = -4.0  # initial value, about −log(batch_size)

    pretrain.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-3
    optimizer.warmup_steps = 50
    optimizer.weight_decay = 1e-4

    pretrain.dtype = "float32"
    pretrain.scan_unroll = 4  # layers unrolled in one scan step; faster on CPUs
    pretrain.log_every = 50  # steps
    pretrain.checkpoint_every = 200  # steps

    config.evaluate = evaluate = ConfigDict()
    evaluate.datasets = ("emoji", "digits")
    evaluate.retrieval = ("emoji:fluent3d",)  # the third artist
    evaluate.custom_datasets = dict(emoji=dict(support="emoji:fluent3d", template="{}"))  # the class name alone as text
    evaluate.caption = "all"
    evaluate.shots = (1, 2, 4, 8, 16)
    evaluate.seeds = 5  # random draws of the support set
    evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    evaluate.min_examples = 20  # classes with fewer images are left out
    evaluate.logit_scale = 100.0  # of text logits, whatever the checkpoint learned
    return config

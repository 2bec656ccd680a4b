"""SigLIP S/16 at 224 px with the context objective on your own image-text shards.

    python launch.py pretrain --config=configs/one_gpu.py --workdir=runs/mine \\
        --config.pretrain.data.sources='shards/*.tar,'

Hardware: one GPU or TPU with 16 GB; the step takes 13.2 GB as compiled for one v5e chip (--topology=v5e:1x1). Time:
20,000 steps process 82 million pairs, which takes days on one GPU. Expected: unknown; no run of this config has been
measured. docs/guides/own-data.md explains it command by command.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"  # downloads and shard indexes

    config.pretrain = pretrain = ConfigDict()
    pretrain.seed = 0  # of the weights, the sample order and the augmentation
    pretrain.steps = 20_000
    pretrain.batch_size = 4096  # image-text pairs per step
    pretrain.microbatch_size = 512  # pairs that the towers process at a time; bounds the memory
    pretrain.family = "siglip"
    pretrain.variant = "S/16"  # size of both towers

    pretrain.vision = vision = ConfigDict()
    vision.image_size = 224  # pixels

    pretrain.text = text = ConfigDict()
    text.length = 64  # tokens

    pretrain.tokenizer = tokenizer = ConfigDict()
    tokenizer.name = "train:16000"  # train a tokenizer of 16,000 ids on the captions

    pretrain.data = data = ConfigDict()
    data.sources = ("shards/*.tar",)
    data.caption = "random"  # one of a sample's captions, drawn each time
    data.threads = 8  # decoding threads

    pretrain.augmentation = augmentation = ConfigDict()
    augmentation.crop_area = (0.5, 1.0)  # fraction of the image area
    augmentation.crop_aspect = (0.75, 1.333)  # width over height

    pretrain.objective = objective = ConfigDict()
    objective.base = "sigmoid"  # SigLIP's loss
    objective.context = True  # add the context objective
    objective.alpha = 0.9  # the paper's, as is the initial temperature; docs/results/study.md on small scale
    objective.dtype = "bfloat16"  # operands of the loss's matrix products

    pretrain.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-3
    optimizer.warmup_steps = 1000
    optimizer.weight_decay = 1e-4
    optimizer.b2 = 0.95  # decay of the second moment

    pretrain.recovery = recovery = ConfigDict()
    recovery.on_bad_loss = "rollback"  # roll back to the newest checkpoint

    pretrain.dtype = "bfloat16"  # of the towers' activations
    pretrain.remat = "minimal"  # keep the products outside attention; recomputes 1 to 2 % of a step
    pretrain.checkpoint_every = 500  # steps

    config.evaluate = evaluate = ConfigDict()
    evaluate.datasets = ("digits",)
    evaluate.retrieval = ()
    evaluate.shots = (1, 2, 4, 8, 16)
    evaluate.seeds = 5  # random draws of the support set
    evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    return config

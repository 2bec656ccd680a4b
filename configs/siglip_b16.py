"""SigLIP B/16 at 224 px with the context objective and a global batch of 32,768: the papers' run, on a TPU pod slice.

    python launch.py compile  --config=configs/siglip_b16.py --topology=v5e:16x16
    python launch.py pretrain --config=configs/siglip_b16.py --workdir=runs/b16 \\
        --config.pretrain.data.sources='/data/shards/*.tar'

Hardware: 256 v5e chips; set `pretrain.microbatch_size` for fewer devices, and check the memory with
`launch.py compile`. Time: unknown; this config has been compiled, not trained. Expected, as published for this
architecture after 6 billion examples (arXiv 2411.15099): zero-shot accuracy about that of SigLIP, and an average
32-shot Tip-Adapter accuracy of 73.8 with the context objective and 69.5 without. docs/guides/clusters.md explains it
step by step.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"  # downloads and shard indexes

    config.pretrain = pretrain = ConfigDict()
    pretrain.seed = 0  # of the weights, the sample order and the augmentation
    pretrain.steps = 183_000  # 6 billion examples seen
    pretrain.batch_size = 32_768  # image-text pairs per step, over all devices
    pretrain.family = "siglip"
    pretrain.variant = "B/16"  # size of both towers

    pretrain.vision = vision = ConfigDict()
    vision.image_size = 224  # pixels

    pretrain.text = text = ConfigDict()
    text.length = 64  # tokens

    pretrain.tokenizer = tokenizer = ConfigDict()
    tokenizer.name = "train:32000"  # train a tokenizer of 32,000 ids on the captions

    pretrain.data = data = ConfigDict()
    data.sources = ("shards/*.tar",)
    data.caption = "random"  # one of a sample's captions, drawn each time
    data.threads = 32  # decoding threads per host

    pretrain.augmentation = augmentation = ConfigDict()
    augmentation.crop_area = (0.5, 1.0)  # fraction of the image area
    augmentation.crop_aspect = (0.75, 1.333)  # width over height
    augmentation.keep_patches = 1.0  # keep all patches

    pretrain.objective = objective = ConfigDict()
    objective.base = "sigmoid"  # SigLIP's loss
    objective.context = True  # add the context objective
    objective.alpha = 0.9  # the paper's, as is the initial temperature; docs/results/study.md on small scale
    objective.dtype = "bfloat16"  # operands of the loss's matrix products

    pretrain.optimizer = optimizer = ConfigDict()
    optimizer.name = "adamw"
    optimizer.schedule = "rsqrt"  # reciprocal square root
    optimizer.learning_rate = 1e-3
    optimizer.weight_decay = 1e-4
    optimizer.warmup_steps = 20_000
    optimizer.timescale = 10_000  # of the reciprocal square root, in steps
    optimizer.cooldown_steps = 30_000  # linear decay to zero at the end
    optimizer.b2 = 0.95  # decay of the second moment

    pretrain.mesh = mesh = ConfigDict()
    mesh.fsdp = 16  # devices that the parameters are sharded over

    pretrain.dtype = "bfloat16"  # of the towers' activations
    pretrain.remat = "minimal"  # keep the products outside attention; recomputes 1 to 2 % of a step
    pretrain.log_every = 50  # steps
    pretrain.checkpoint_every = 1000  # steps

    config.evaluate = evaluate = ConfigDict()
    evaluate.datasets = ("digits",)
    evaluate.retrieval = ()
    evaluate.shots = (1, 2, 4, 8, 16, 32)
    evaluate.seeds = 5  # random draws of the support set
    evaluate.min_examples = 40  # classes with fewer images are left out
    evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    evaluate.logit_scale = 100.0  # of text logits, whatever the checkpoint learned
    return config

"""Post-train a public SigLIP with the context objective, for a fraction of its pretraining budget.

    python launch.py pretrain --config=configs/post_train_siglip.py --workdir=runs/post_train_siglip \\
        --config.pretrain.data.sources='/data/shards/*.tar'
    python launch.py export --config=configs/post_train_siglip.py --workdir=runs/post_train_siglip

Any SigLIP or SigLIP 2 works: a folder, an .npz of big_vision or a Hub id, for example
`--config.pretrain.initial_checkpoint=google/siglip2-base-patch16-256`. A SigLIP 2 NaFlex is trained on squares, and its
export keeps the variable resolution. Towers, tokenizer, image processor, logit scale and bias come from the checkpoint.
`--config.pretrain.vision.image_size=384` changes the image size and resamples the position embeddings.

Hardware: 8 accelerators with 80 GB for B/16; set `pretrain.microbatch_size` for fewer or smaller ones. Time and
expected result: unknown; public weights have not been post-trained with this code.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"  # downloads and shard indexes

    config.pretrain = pretrain = ConfigDict()
    pretrain.seed = 0  # of the sample order and the augmentation
    pretrain.steps = 10_000
    pretrain.batch_size = 8_192  # image-text pairs per step, over all devices
    pretrain.initial_checkpoint = "google/siglip-base-patch16-224"

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
    objective.alpha = 0.9  # weight of the base loss; the context objective has 1 − alpha
    objective.dtype = "bfloat16"  # operands of the loss's matrix products

    pretrain.optimizer = optimizer = ConfigDict()
    optimizer.name = "adamw"
    optimizer.schedule = "cosine"
    optimizer.learning_rate = 1e-5
    optimizer.weight_decay = 1e-4
    optimizer.warmup_steps = 500
    optimizer.layer_decay = 0.9  # factor of the learning rate from each layer to the one below it
    optimizer.frozen = ("text/token_embedding$",)  # pattern over parameter paths
    optimizer.context_temperature_learning_rate = 100.0  # times learning_rate: the temperature starts far from its end

    pretrain.dtype = "bfloat16"  # of the towers' activations
    pretrain.remat = "minimal"  # keep the products outside attention; recomputes 1 to 2 % of a step
    pretrain.log_every = 50  # steps
    pretrain.checkpoint_every = 500  # steps

    config.evaluate = evaluate = ConfigDict()
    evaluate.datasets = ("digits",)
    evaluate.retrieval = ()
    evaluate.shots = (1, 2, 4, 8, 16, 32)
    evaluate.seeds = 5  # random draws of the support set
    evaluate.min_examples = 40  # classes with fewer images are left out
    evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    evaluate.logit_scale = 100.0  # of text logits, whatever the checkpoint learned
    return config

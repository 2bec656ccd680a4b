"""Align the stored features of two frozen encoders with heads, in about a minute on two cores.

    python launch.py embed --checkpoint=openai/clip-vit-base-patch32 --images=photos/ --texts=texts.jsonl --out=features
    python launch.py align --config=configs/align.py --workdir=runs/aligned \\
        --config.align.image_features=features --config.align.text_features=features
    python launch.py export --config=configs/align.py --workdir=runs/aligned

Features of any encoder work: `.safetensors` or `.npy` files of DINO, timm or sentence-transformers.
docs/guides/align.md shows ids, several captions per image, and captions with a text tower that is trained from scratch.

Hardware: any; 25,000 pairs of 1,280 and 384 dimensions take one gigabyte. Time: a minute on two cores. Expected
result: depends on the encoders; docs/guides/align.md has what was measured on random ones.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"  # indexes of tables of captions

    config.align = align = ConfigDict()
    align.seed = 0  # of the weights, the sample order and the captions that are drawn
    align.epochs = 30.0
    align.batch_size = 1024  # pairs per step, over all devices
    align.image_features = ("features",)
    align.text_features = ("features",)
    align.dim = 256  # dimensions of the embedding

    align.image_head = image_head = ConfigDict()
    image_head.kind = "mlp"  # a linear layer plus an MLP
    image_head.mlp_width = 512

    align.text_head = text_head = ConfigDict()
    text_head.kind = "mlp"
    text_head.mlp_width = 512

    align.objective = objective = ConfigDict()
    objective.base = "sigmoid"  # SigLIP's loss
    objective.context = True  # add the context objective
    objective.alpha = 0.2  # weight of the base loss; the context objective has 1 − alpha
    objective.context_temperature = 0.03  # initial
    objective.logit_bias = -7.0  # initial value, about −log(batch_size)

    align.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-3
    optimizer.warmup_steps = 50
    optimizer.weight_decay = 1e-3

    align.log_every = 50  # steps
    align.checkpoint_every = 500  # steps

    config.evaluate = evaluate = ConfigDict()
    evaluate.datasets = ("digits",)
    evaluate.retrieval = ()
    evaluate.shots = (1, 2, 4, 8, 16)
    evaluate.seeds = 5  # random draws of the support set
    evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    evaluate.logit_scale = 100.0  # of text logits, whatever the heads learned
    return config

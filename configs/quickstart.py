"""Pretrain a text tower and an image head on a frozen image encoder, with and without the context objective.

    python launch.py quickstart

The encoder is checkpoints/photos, and its features are computed once. The pairs are 16,795 icons with names. Half of
the names belong to other icons, as captions of the web often describe something else. The aligned models are evaluated
on concepts and artists that the training lacks, next to the encoder alone.

Hardware: two CPU cores, 2.5 GB of memory. Time: six to nine minutes. docs/tutorials/quickstart.md has the
expected results.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"  # the embedded data as shards, and their indexes

    config.embed = embed = ConfigDict()
    embed.checkpoint = "checkpoints/photos"
    embed.images = "icons:train"
    embed.image_size = 112  # pixels; icons have 32

    config.align = align = ConfigDict()
    align.seed = 0  # of the weights, the sample order and the wrong texts
    align.epochs = 20.0
    align.batch_size = 2048  # pairs per step; an icon meets one or two of its concept
    align.image_features = ("features",)  # replaced by those of the job
    align.captions = ("icons:train",)
    align.wrong_texts = 0.5  # share of the names that are replaced by those of other icons

    align.image_head = image_head = ConfigDict()
    image_head.kind = "mlp"  # a linear layer plus an MLP
    image_head.mlp_width = 256

    align.text = text = ConfigDict()
    text.length = 8  # tokens
    text.width = 128
    text.depth = 1  # layers
    text.heads = 4
    text.mlp_width = 512

    align.tokenizer = tokenizer = ConfigDict()
    tokenizer.name = "train:2048"  # train a tokenizer of 2,048 ids on the names

    align.objective = objective = ConfigDict()
    objective.base = "sigmoid"  # SigLIP's loss
    objective.context = True  # add the context objective
    objective.alpha = 0.2  # weight of the base loss; the context objective has 1 − alpha
    objective.context_temperature = 0.03  # initial
    objective.logit_bias = -7.6  # initial value, about −log(batch_size)

    align.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 3e-3
    optimizer.warmup_steps = 20
    optimizer.weight_decay = 1e-3

    align.log_every = 20  # steps
    align.checkpoint_every = 100  # steps

    config.plain = plain = ConfigDict()  # what the run without the context objective changes in align
    plain.epochs = 20.0  # each run has the length that is best for it; here they agree
    plain.objective = ConfigDict()
    plain.objective.context = False

    config.evaluate = evaluate = ConfigDict()
    evaluate.datasets = ("icons",)
    evaluate.shots = (1, 2, 4)
    evaluate.seeds = 5  # random draws of the support set
    evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    evaluate.logit_scale = 100.0  # of text logits, whatever the runs learned

    config.photos = photos = ConfigDict()  # what the evaluation on photos changes in evaluate
    photos.datasets = ("trashnet", "clothing", "signdigits")
    return config

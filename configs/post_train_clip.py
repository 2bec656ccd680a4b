"""A public CLIP continued with the softmax loss and the context objective.

    python launch.py pretrain --config=configs/post_train_clip.py --workdir=runs/post_train_clip \\
        --config.pretrain.data.sources='/data/shards/*.tar'
    python launch.py export --config=configs/post_train_clip.py --workdir=runs/post_train_clip

Any CLIP can be named, by a folder as transformers or open_clip writes it or a hub id, for example
`--config.pretrain.initial_checkpoint=laion/CLIP-ViT-B-16-laion2B-s34B-b88K`; its towers, tokenizer, image processor and
scale are taken. Sized for B/32 on 8 accelerators of 80 GB; on fewer or smaller ones set `pretrain.microbatch_size`. Not
yet run on public weights with this code.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"

    config.pretrain = pretrain = ConfigDict()
    pretrain.seed = 0
    pretrain.steps = 10_000
    pretrain.batch_size = 8_192
    pretrain.initial_checkpoint = "openai/clip-vit-base-patch32"
    pretrain.data = ConfigDict(dict(sources=("shards/*.tar",), caption="random", threads=32))
    pretrain.augmentation = ConfigDict(dict(crop_area=(0.5, 1.0), crop_aspect=(0.75, 1.333), keep_patches=1.0))
    pretrain.objective = ConfigDict(dict(base="softmax", context=True, alpha=0.9, dtype="bfloat16"))
    pretrain.optimizer = ConfigDict(dict(name="adamw", schedule="cosine", learning_rate=1e-5, weight_decay=1e-4))
    pretrain.optimizer.update(dict(warmup_steps=500, layer_decay=0.9, frozen=("text/token_embedding$",)))
    pretrain.optimizer.context_temperature_learning_rate = 100.0  # it has a long way to go at this learning rate
    pretrain.dtype = "bfloat16"
    pretrain.remat = "minimal"
    pretrain.log_every = 50
    pretrain.checkpoint_every = 500

    config.evaluate = ConfigDict(dict(datasets=("digits",), retrieval=()))
    config.evaluate.shots = (1, 2, 4, 8, 16, 32)
    config.evaluate.seeds = 5
    config.evaluate.min_examples = 40
    config.evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    config.evaluate.logit_scale = 100.0
    return config

"""SigLIP S/16 at 224 px with the context objective on your own image-text shards, on one GPU.

    python launch.py pretrain --config=configs/one_gpu.py --workdir=runs/mine \\
        --config.pretrain.data.sources='shards/*.tar,'

Takes 13.2 GB, as compiled for one v5e chip (--topology=v5e:1x1). 20,000 steps are 82 million pairs, days on one GPU; no
figure yet, since no GPU was at hand. docs/OWN_DATA.md goes through it command by command.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data_dir = "runs/data"

    config.pretrain = pretrain = ConfigDict()
    pretrain.seed = 0
    pretrain.steps = 20_000
    pretrain.batch_size = 4096
    pretrain.microbatch_size = 512
    pretrain.family = "siglip"
    pretrain.variant = "S/16"
    pretrain.vision = ConfigDict(dict(image_size=224))
    pretrain.text = ConfigDict(dict(length=64))
    pretrain.tokenizer = ConfigDict(dict(name="train:16000"))
    pretrain.data = ConfigDict(dict(sources=("shards/*.tar",), caption="random", threads=8))
    pretrain.augmentation = ConfigDict(dict(crop_area=(0.5, 1.0), crop_aspect=(0.75, 1.333)))
    pretrain.objective = ConfigDict(dict(base="sigmoid", context=True, alpha=0.9, dtype="bfloat16"))
    pretrain.optimizer = ConfigDict(dict(learning_rate=1e-3, warmup_steps=1000, weight_decay=1e-4, b2=0.95))
    pretrain.recovery = ConfigDict(dict(on_bad_loss="go_back"))
    pretrain.dtype = "bfloat16"
    pretrain.remat = "minimal"
    pretrain.checkpoint_every = 500

    config.evaluate = ConfigDict(dict(datasets=("digits",), retrieval=()))
    config.evaluate.shots = (1, 2, 4, 8, 16)
    config.evaluate.seeds = 5
    config.evaluate.methods = ("zero_shot", "prototypes", "knn", "tip_adapter")
    return config

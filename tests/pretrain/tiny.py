"""A pretraining config small enough for tests, and a program that runs it."""

import sys


def config(shards: str, **changes) -> dict:
    """Returns the `pretrain` section of a config on the given shards."""
    return {
        "seed": 0,
        "steps": 9,
        "batch_size": 8,
        "vision": {"image_size": 8, "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "mlp_width": 32},
        "text": {"length": 6, "width": 16, "depth": 1, "heads": 2, "mlp_width": 32},
        "tokenizer": {"name": "train:60"},
        "data": {"sources": (shards,), "caption": "random", "threads": 2},
        "augmentation": {"color_jitter": 0.3, "keep_patches": 0.5},
        "objective": {"base": "sigmoid"},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "log_every": 2,
        "checkpoint_every": 2,
        **changes,
    }


if __name__ == "__main__":
    from pretrain.train import pretrain

    pretrain(config(sys.argv[1], steps=int(sys.argv[3])), sys.argv[2], data_dir=sys.argv[2])

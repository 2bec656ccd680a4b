"""Features, captions and a config small enough for tests."""

import json
import pathlib

import numpy as np

IMAGES, TEXTS = 24, 24


def write_features(folder: pathlib.Path, *, count: int = IMAGES, image_dim: int = 12, text_dim: int = 8, seed: int = 0):
    """Write `images.npy` and `texts.npy` whose rows belong together; return the folder."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(count, 6))
    for name, dim in (("images", image_dim), ("texts", text_dim)):
        features = shared @ rng.normal(size=(6, dim)) + 0.1 * rng.normal(size=(count, dim)) + 3
        np.save(folder / f"{name}.npy", features.astype(np.float32))
    return folder


def write_ids(folder: pathlib.Path, name: str, ids) -> None:
    """Write the ids of the rows of `NAME.npy`, as `embed` does."""
    (folder / f"{name}.ids.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ids))


def align_config(features, **changes) -> dict:
    """Return the `align` section of a config that trains on a folder of features."""
    return {
        "seed": 0,
        "steps": 9,
        "batch_size": 8,
        "image_features": (str(features),),
        "text_features": (str(features),),
        "dim": 6,
        "objective": {"base": "sigmoid", "context": True},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "log_every": 2,
        "checkpoint_every": 2,
        **changes,
    }


def captions_config(features, captions, **changes) -> dict:
    """Return the `align` section of a config that trains a text tower on captions."""
    text = {"length": 8, "width": 16, "depth": 1, "heads": 2, "mlp_width": 32}
    given = {"captions": (str(captions),), "text_features": (), "text": text, "tokenizer": {"name": "train:60"}}
    return align_config(features, **given, **changes)

"""Every pooling of the image tower equals a float64 reference, and open_clip's names for it are read."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from foundation.settings import build
from models.checkpoints.describe import describe_checkpoint
from models.config import VisionSettings
from models.towers import create_model
from tests.models.public_layouts import clip_of_open_clip
from tests.models.tiny_models import random_parameters, tiny

POOLINGS = {
    "class": {"pooling": "class"},
    "average": {"pooling": "average"},
    "average, then the norm": {"pooling": "average", "norm_after_pooling": True},
}


def norm(x, p, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def layer(x, p, tower):
    normed = norm(x, p["norm1"], tower.norm_epsilon)
    q, k, v = (linear(normed, p["attention"][name]) for name in ("query", "key", "value"))
    split = tower.width // tower.heads
    heads = []
    for start in range(0, tower.width, split):
        part = slice(start, start + split)
        weights = np.exp(q[:, part] @ k[:, part].T / np.sqrt(split))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
    x = x + linear(np.concatenate(heads, -1), p["attention"]["out"])
    hidden = linear(norm(x, p["norm2"], tower.norm_epsilon), p["mlp"]["up"])
    return x + linear(hidden / (1 + np.exp(-1.702 * hidden)), p["mlp"]["down"])


def slice_layer(tree, number):
    return {k: slice_layer(v, number) if isinstance(v, dict) else v[number] for k, v in tree.items()}


def reference(parameters, image, tower):
    """Return the embedding of one image in float64; the activation is QuickGELU."""
    size, (rows, columns) = tower.patch_size, tower.grid
    cut = [(r * size, c * size) for r in range(rows) for c in range(columns)]
    patches = np.stack([image[r : r + size, c : c + size].ravel() for r, c in cut])
    x = np.concatenate([parameters["class_embedding"][None], patches @ parameters["patch_embedding"]["kernel"]])
    x = norm(x + parameters["position_embedding"], parameters["pre_norm"], tower.norm_epsilon)
    for number in range(tower.depth):
        x = layer(x, slice_layer(parameters["encoder"]["layers"], number), tower)
    last = parameters["encoder"]["norm"]
    if tower.pooling == "class":
        x = norm(x[0], last, tower.norm_epsilon)
    elif tower.norm_after_pooling:
        x = norm(x[1:].mean(0), last, tower.norm_epsilon)
    else:
        x = norm(x[1:], last, tower.norm_epsilon).mean(0)
    return x @ parameters["projection"]["kernel"]


def to_float64(tree):
    return {k: to_float64(v) if isinstance(v, dict) else np.asarray(v, np.float64) for k, v in tree.items()}


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_equals_the_reference(name):
    settings = tiny("clip", vision=POOLINGS[name])
    parameters = random_parameters(settings)
    images = np.random.default_rng(0).normal(size=(2, 14, 14, 3))
    found = create_model(settings).embed_images(parameters, images.astype(np.float32))
    vision = to_float64(parameters["vision"])
    expected = np.stack([reference(vision, image, settings.vision) for image in images])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_poolings_differ():
    settings = [tiny("clip", vision=change) for change in POOLINGS.values()]
    parameters = random_parameters(settings[0])
    images = np.random.default_rng(0).normal(size=(2, 14, 14, 3)).astype(np.float32)
    a, b, c = (np.asarray(create_model(each).embed_images(parameters, images)) for each in settings)
    assert (
        min(np.abs(a - b).max(), np.abs(b - c).max(), np.abs(a - c).max()) > 0.002
    )  # twenty times the tolerance above


def test_the_norm_follows_only_an_average():
    fields = {"image_size": 8, "patch_size": 4, "width": 8, "depth": 1, "heads": 2, "mlp_width": 8}
    with pytest.raises(ValueError, match=r"vision.norm_after_pooling needs pooling 'average', not 'class'"):
        build(VisionSettings, "vision", {**fields, "pooling": "class", "norm_after_pooling": True})


@pytest.mark.parametrize("positions", [None, "learnable", "sin_cos_2d"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("pool", [None, "tok", "avg"])
def test_the_pooling_of_an_open_clip_config_is_read(tmp_path, pool, after, positions):
    folder = clip_of_open_clip(tmp_path / "model")
    path = folder / "open_clip_config.json"
    fields = json.loads(path.read_text())
    chosen = {"pool_type": pool, "final_ln_after_pool": after, "pos_embed_type": positions, "no_ln_pre": True}
    fields["model_cfg"]["vision_cfg"] |= {key: value for key, value in chosen.items() if value is not None}
    path.write_text(json.dumps(fields))
    weights = folder / "open_clip_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(weights).items() if ".ln_pre." not in name}
    weights.unlink()
    save_file(tensors, weights)
    description = describe_checkpoint(folder)
    vision = description.settings.vision
    assert vision.pooling == ("average" if pool == "avg" else "class")
    assert vision.norm_after_pooling == (pool == "avg" and after)
    images = np.zeros((1, *vision.image_shape, 3), np.float32)
    assert np.isfinite(create_model(description.settings).embed_images(description.read(), images)).all()

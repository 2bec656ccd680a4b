"""Small models of every family with random weights, and the golden models saved by transformers."""

import pathlib

import jax
import numpy as np

from models.checkpoints.huggingface import read_config, weight_map_for
from models.checkpoints.io import Checkpoint
from models.checkpoints.weight_map import parameter_shapes, read_parameters
from models.config import EfficientNetSettings, ModelSettings, StageSettings, TextSettings, VisionSettings
from models.io.tensor_reader import open_tensors
from models.preprocessing import Preprocessing
from models.text.tokenizer import train_tokenizer
from models.towers import create_model
from models.variants import tower_fields

GOLDEN = pathlib.Path(__file__).parent / "golden"


def open_golden(folder: pathlib.Path = GOLDEN) -> tuple[ModelSettings, dict]:
    """Return settings and parameters of a golden folder, which has no tokenizer and no image processor."""
    family, settings = read_config(folder / "config.json")
    files = open_tensors(folder / "model.safetensors")
    weight_map, shapes = weight_map_for(settings, family), parameter_shapes(settings)
    parameters = read_parameters(files, weight_map, shapes=shapes, dtype="float32", place=lambda path, array: array)
    return settings, parameters


def tiny(family: str, *, vocab_size: int = 61, vision: dict | None = None, text: dict | None = None) -> ModelSettings:
    """Return settings of unusual sizes: patches that leave a remainder, widths that are not multiples of 64."""
    shared = tower_fields(family)
    image = {"image_size": 14, "patch_size": 5, "width": 24, "depth": 3, "heads": 2, "mlp_width": 36}
    words = {"vocab_size": vocab_size, "length": 9, "width": 20, "depth": 1, "heads": 4, "mlp_width": 28}
    image |= shared.vision | ({"projection": 18} if family == "clip" else {})
    return ModelSettings(
        vision=VisionSettings(**image | (vision or {})), text=TextSettings(**words | shared.text | (text or {}))
    )


def tiny_checkpoint(family: str, *, seed: int = 0, mean: tuple = (0.5, 0.5, 0.5), **changes) -> Checkpoint:
    """Return a checkpoint of `tiny` towers with random weights; `changes` are fields of their settings."""
    captions = ["a red fish", "two blue birds", "one green tree", "thing kind of"]
    tokenizer = train_tokenizer(captions, vocab_size=60, length=9)
    end = {"end_id": tokenizer.end_id} if family == "clip" else {}
    text = end | changes.pop("text", {})
    settings = tiny(family, vocab_size=tokenizer.vocab_size, text=text, **changes)
    pixels = settings.vision.image_shape
    shape = {"size": pixels[0], "crop": pixels} if family == "clip" else {"size": pixels}
    scalars = {"logit_scale": 2.5, "logit_bias": -3.5}
    preprocessing = Preprocessing(**shape, mean=mean)
    return Checkpoint(settings, random_parameters(settings, seed=seed), scalars, preprocessing, tokenizer)


def tiny_images_only(*, image_size: int = 15, width: int = 12) -> ModelSettings:
    """Return settings of a tower of convolutions: every kernel size, stride and expansion, and odd widths."""
    stages = (
        StageSettings(kernel_size=3, stride=1, expansion=1, width=5, repeats=1),
        StageSettings(kernel_size=5, stride=2, expansion=2, width=7, repeats=2),
        StageSettings(kernel_size=3, stride=2, expansion=3, width=6, repeats=2),
    )
    vision = EfficientNetSettings(image_size=image_size, stem_width=4, stages=stages, width=width)
    return ModelSettings(vision=vision, text=None)


def images_only_checkpoint(*, seed: int = 0, **changes) -> Checkpoint:
    """Return a checkpoint of `tiny_images_only` with random weights; `changes` are its arguments."""
    settings = tiny_images_only(**changes)
    pixels = settings.vision.image_shape
    return Checkpoint(settings, random_parameters(settings, seed=seed), {}, Preprocessing(size=pixels), None)


def random_parameters(settings: ModelSettings, *, seed: int = 0, scale: float = 0.3) -> dict:
    """Return random parameters; none is 0 or 1, so that a missing array changes the result."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: create_model(settings).init(0))
    return jax.tree.map(lambda leaf: rng.normal(0, scale, leaf.shape).astype(np.float32), shapes)

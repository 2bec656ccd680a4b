"""The two-way map between this project's parameters and a Hugging Face `SiglipModel` directory.

One table of entries, read in both directions: `_entries` says which tensor of the file is which array here.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from models.preprocessing import FILE as PREPROCESSOR_FILE
from models.preprocessing import Preprocessing, load_preprocessing
from models.settings import ModelSettings, TextSettings, VisionSettings
from models.tokenizer import Tokenizer, load_tokenizer

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class Checkpoint(NamedTuple):
    """Everything an exported directory holds. `scalars` are the base loss's `logit_scale` (a log) and `logit_bias`."""

    settings: ModelSettings
    parameters: Mapping[str, Any]
    scalars: Mapping[str, float]
    preprocessing: Preprocessing
    tokenizer: Tokenizer


class _Entry(NamedTuple):
    """A tensor of the file, the arrays here that it holds, and the conversion each way."""

    name: str
    paths: tuple[str, ...]
    layer: int | None
    save: Callable[..., np.ndarray]
    load: Callable[[np.ndarray], tuple[np.ndarray, ...]]


def _plain(array: np.ndarray) -> np.ndarray:
    return array


def _transpose(array: np.ndarray) -> np.ndarray:
    return array.T


def _one(convert: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    return lambda array: (convert(array),)


def _linear(name: str, path: str, layer: int | None = None) -> Iterator[_Entry]:
    yield _Entry(f"{name}.weight", (f"{path}/kernel",), layer, _transpose, _one(_transpose))
    yield _Entry(f"{name}.bias", (f"{path}/bias",), layer, _plain, _one(_plain))


def _norm(name: str, path: str, layer: int | None = None) -> Iterator[_Entry]:
    yield _Entry(f"{name}.weight", (f"{path}/scale",), layer, _plain, _one(_plain))
    yield _Entry(f"{name}.bias", (f"{path}/bias",), layer, _plain, _one(_plain))


def _table(name: str, path: str) -> Iterator[_Entry]:
    yield _Entry(name, (path,), None, _plain, _one(_plain))


def _encoder(name: str, path: str, depth: int) -> Iterator[_Entry]:
    for layer in range(depth):
        prefix, stacked = f"{name}.layers.{layer}", f"{path}/layers"
        yield from _norm(f"{prefix}.layer_norm1", f"{stacked}/norm1", layer)
        for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
            yield from _linear(f"{prefix}.self_attn.{theirs}", f"{stacked}/attention/{ours}", layer)
        yield from _norm(f"{prefix}.layer_norm2", f"{stacked}/norm2", layer)
        yield from _linear(f"{prefix}.mlp.fc1", f"{stacked}/mlp/up", layer)
        yield from _linear(f"{prefix}.mlp.fc2", f"{stacked}/mlp/down", layer)


def _pooling(name: str, path: str) -> Iterator[_Entry]:
    kernels = tuple(f"{path}/attention/{part}/kernel" for part in ("query", "key", "value"))
    biases = tuple(f"{path}/attention/{part}/bias" for part in ("query", "key", "value"))
    yield from _table(f"{name}.probe", f"{path}/probe")
    yield _Entry(
        f"{name}.attention.in_proj_weight",
        kernels,
        None,
        lambda *parts: np.concatenate([part.T for part in parts]),
        lambda array: tuple(part.T for part in np.split(array, 3)),
    )
    yield _Entry(
        f"{name}.attention.in_proj_bias",
        biases,
        None,
        lambda *parts: np.concatenate(parts),
        lambda array: tuple(np.split(array, 3)),
    )
    yield from _linear(f"{name}.attention.out_proj", f"{path}/attention/out")
    yield from _norm(f"{name}.layernorm", f"{path}/norm")
    yield from _linear(f"{name}.mlp.fc1", f"{path}/mlp/up")
    yield from _linear(f"{name}.mlp.fc2", f"{path}/mlp/down")


def _entries(settings: ModelSettings) -> Iterator[_Entry]:
    patch = settings.vision.patch_size
    vision, text = "vision_model", "text_model"
    yield _Entry(
        f"{vision}.embeddings.patch_embedding.weight",
        ("vision/patch_embedding/kernel",),
        None,
        lambda kernel: kernel.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1),
        lambda array: (array.transpose(2, 3, 1, 0).reshape(patch * patch * 3, -1),),
    )
    yield from _table(f"{vision}.embeddings.patch_embedding.bias", "vision/patch_embedding/bias")
    yield from _table(f"{vision}.embeddings.position_embedding.weight", "vision/position_embedding")
    yield from _encoder(f"{vision}.encoder", "vision/encoder", settings.vision.depth)
    yield from _norm(f"{vision}.post_layernorm", "vision/encoder/norm")
    yield from _pooling(f"{vision}.head", "vision/head")
    yield from _table(f"{text}.embeddings.token_embedding.weight", "text/token_embedding")
    yield from _table(f"{text}.embeddings.position_embedding.weight", "text/position_embedding")
    yield from _encoder(f"{text}.encoder", "text/encoder", settings.text.depth)
    yield from _norm(f"{text}.final_layer_norm", "text/encoder/norm")
    yield from _linear(f"{text}.head", "text/head")


def to_tensors(settings: ModelSettings, parameters: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the towers' tensors under their `SiglipModel` names."""
    tensors = {}
    for entry in _entries(settings):
        arrays = [np.asarray(_get(parameters, path)) for path in entry.paths]
        if entry.layer is not None:
            arrays = [array[entry.layer] for array in arrays]
        tensors[entry.name] = np.ascontiguousarray(entry.save(*arrays))
    return tensors


def from_tensors(settings: ModelSettings, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the towers' parameters as nested dicts of float32 arrays.

    Raises `ValueError` that lists what is missing, superfluous or of another shape than `settings` say.
    """
    shapes = _expected_shapes(settings)
    problems = [f"missing {name}" for name in shapes if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in shapes]
    problems += [
        f"{name} has shape {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise ValueError("the tensors do not fit the config: " + "; ".join(problems))
    layers: dict[str, list[np.ndarray]] = {}
    parameters: dict[str, Any] = {}
    for entry in _entries(settings):
        for path, array in zip(entry.paths, entry.load(np.asarray(tensors[entry.name], np.float32)), strict=True):
            if entry.layer is None:
                _set(parameters, path, np.ascontiguousarray(array))
            else:
                layers.setdefault(path, []).append(array)
    for path, stack in layers.items():
        _set(parameters, path, np.stack(stack))
    return parameters


def _expected_shapes(settings: ModelSettings) -> dict[str, tuple[int, ...]]:
    import jax

    from models.towers import create_model

    shapes = jax.eval_shape(lambda: create_model(settings).init(0))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    return {name: tensor.shape for name, tensor in to_tensors(settings, empty).items()}


def save_checkpoint(folder: str | os.PathLike, checkpoint: Checkpoint) -> pathlib.Path:
    """Writes a directory that `transformers.SiglipModel`, its image processor and tokenizer open; returns its path.

    The directory appears under its final name only when it is complete; one that was there is replaced.
    """
    from safetensors.numpy import save_file

    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tensors = to_tensors(checkpoint.settings, checkpoint.parameters)
    for name in ("logit_scale", "logit_bias"):
        tensors[name] = np.array([checkpoint.scalars[name]], np.float32)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as temporary:
        partial = pathlib.Path(temporary) / "new"
        partial.mkdir()
        _write_json(partial / CONFIG_FILE, _to_config(checkpoint.settings, checkpoint.tokenizer))
        _write_json(partial / PREPROCESSOR_FILE, checkpoint.preprocessing.to_json())
        checkpoint.tokenizer.save(partial)
        save_file(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        if folder.exists():
            os.replace(folder, pathlib.Path(temporary) / "old")
        os.replace(partial, folder)
    return folder


def load_checkpoint(folder: str | os.PathLike) -> Checkpoint:
    """Opens an exported directory; raises `FileNotFoundError` or `ValueError` for one that is none or is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = pathlib.Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no exported checkpoint: it holds no {name}; `launch.py export` writes one"
            )
    settings = read_config(folder / CONFIG_FILE)
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} is damaged ({error}); export it again") from error
    scalars = {name: float(tensors.pop(name)[0]) for name in ("logit_scale", "logit_bias") if name in tensors}
    if len(scalars) < 2:
        raise ValueError(f"{folder / WEIGHTS_FILE} lacks logit_scale or logit_bias; is it a SiglipModel?")
    preprocessing, side = load_preprocessing(folder), settings.vision.image_size
    if preprocessing.shape != (side, side):
        height, width = preprocessing.shape
        raise ValueError(
            f"{folder}: images are made {height} × {width} pixels, and the image tower takes {side} × {side}"
        )
    return Checkpoint(
        settings=settings,
        parameters=from_tensors(settings, tensors),
        scalars=scalars,
        preprocessing=preprocessing,
        tokenizer=load_tokenizer(folder, length=settings.text.length),
    )


def _to_config(settings: ModelSettings, tokenizer: Tokenizer) -> dict[str, Any]:
    def tower(tower: VisionSettings | TextSettings) -> dict[str, Any]:
        return {
            "hidden_size": tower.width,
            "intermediate_size": tower.mlp_width,
            "num_hidden_layers": tower.depth,
            "num_attention_heads": tower.heads,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
        }

    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "dtype": "float32",
        "initializer_factor": 1.0,
        "vision_config": tower(settings.vision)
        | {
            "model_type": "siglip_vision_model",
            "num_channels": 3,
            "image_size": settings.vision.image_size,
            "patch_size": settings.vision.patch_size,
        },
        "text_config": tower(settings.text)
        | {
            "model_type": "siglip_text_model",
            "vocab_size": settings.text.vocab_size,
            "max_position_embeddings": settings.text.length,
            "projection_size": settings.vision.width,
            "pad_token_id": tokenizer.pad_id,
            "bos_token_id": tokenizer.start_id,
            "eos_token_id": tokenizer.end_id,
        },
    }


def read_config(path: pathlib.Path) -> ModelSettings:
    """Returns the settings that a `config.json` describes; raises `ValueError` for what is no SigLIP."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("model_type") != "siglip":
            raise ValueError(f"{path}: model_type {config.get('model_type')!r} is not read here; 'siglip' is")

        def tower(section: Mapping[str, Any]) -> dict[str, Any]:
            return {
                "width": section["hidden_size"],
                "mlp_width": section["intermediate_size"],
                "depth": section["num_hidden_layers"],
                "heads": section["num_attention_heads"],
            }

        vision, text = config["vision_config"], config["text_config"]
        return ModelSettings(
            vision=VisionSettings(image_size=vision["image_size"], patch_size=vision["patch_size"], **tower(vision)),
            text=TextSettings(vocab_size=text["vocab_size"], length=text["max_position_embeddings"], **tower(text)),
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}") from error


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _get(tree: Mapping[str, Any], path: str) -> Any:
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _set(tree: dict[str, Any], path: str, value: np.ndarray) -> None:
    *parents, last = path.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value

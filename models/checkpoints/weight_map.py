"""The map between a file's tensors and a model's parameters: one table of entries, used for reading and writing."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from models.config import ModelSettings
from models.io.tensor_reader import FLOATS, Tensor, TensorFiles

_THREADS = 4
_ALIGNMENT = 64  # bytes; JAX takes over an array with this alignment without a copy
_MAX_LISTED = 8  # problems in one error
_LARGEST_SCALAR = 100.0  # of the logarithm of the scale, or of the bias

PlaceArray = Callable[[str, np.ndarray], Any]


class WeightEntry(NamedTuple):
    """The correspondence between a part of a tensor in a file and an array of the model.

    Axis 0 of tensor `name` is cut into `parts` equal parts. Part number `part`, with its axes permuted to the order
    `axes` (None: unchanged), has shape `view` (None: the shape of the array). Its elements, in that order, are those of
    the array at `path`, or of layer number `layer` of that array.
    """

    name: str
    path: str
    layer: int | None = None
    axes: tuple[int, ...] | None = None
    view: tuple[int, ...] | None = None
    part: int = 0
    parts: int = 1


@dataclasses.dataclass(frozen=True)
class WeightMap:
    """The `entries` of the towers, and the names and shape of the tensors that hold `logit_scale` and `logit_bias`.

    `ignored` is a pattern of tensor names that hold no weights.
    """

    entries: tuple[WeightEntry, ...]
    scalars: Mapping[str, str]
    scalar_shape: tuple[int, ...] = (1,)
    ignored: str = r"(^|\.)position_ids$"


class MappedSettings(NamedTuple):
    """The settings of a checkpoint's towers, and where its tensors are."""

    settings: ModelSettings
    weight_map: WeightMap


def parameter_shapes(settings: ModelSettings) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of the towers by path, without computing anything."""
    from models.towers import create_model

    return {path: leaf.shape for path, leaf in flatten(jax.eval_shape(lambda: create_model(settings).init(0)))}


def tensor_shapes(weight_map: WeightMap, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in the file of a model whose arrays have `shapes` by path."""
    expected = {}
    for entry in weight_map.entries:
        array = shapes[entry.path] if entry.layer is None else shapes[entry.path][1:]
        view = array if entry.view is None else entry.view
        shape = list(view)
        for position, axis in enumerate(entry.axes or range(len(view))):
            shape[axis] = view[position]
        shape[0] *= entry.parts
        expected[entry.name] = tuple(shape)
    return expected


def check_depth(settings: ModelSettings, tensors: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` for more layers than tensors, before a list of the tensors of all layers is made."""
    depth = settings.vision.depth + settings.text.depth
    if depth > len(tensors):
        raise ValueError(f"the config has {depth:,} layers, but the file has only {len(tensors):,} tensors")


def check_tensors(
    tensors: Mapping[str, Tensor], weight_map: WeightMap, *, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise `ValueError` that lists missing and unexpected tensors, and those of a wrong shape or dtype."""
    expected = tensor_shapes(weight_map, shapes)
    scalars = set(weight_map.scalars.values())
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [
        f"unexpected {name}"
        for name in tensors
        if name not in expected and name not in scalars and not re.search(weight_map.ignored, name)
    ]
    problems += [
        f"{name} has shape {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems += [
        f"{name} has dtype {tensors[name].dtype}, which is not a floating-point type"
        for name in expected
        if name in tensors and tensors[name].dtype.name not in FLOATS
    ]
    if problems:
        more = f"; and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
        raise ValueError("the tensors do not match the config: " + "; ".join(problems[:_MAX_LISTED]) + more)


def read_parameters(
    files: TensorFiles,
    weight_map: WeightMap,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: Any,
    place: PlaceArray,
) -> dict[str, Any]:
    """Return the parameters of the towers as nested dicts of the results of `place(path, array)` for each array.

    Arrays are assembled one at a time, the largest first, from tensors that are mapped into memory one at a time. Peak
    memory is one array on top of what `place` keeps. Raises as `check_tensors` does.
    """
    check_tensors(files, weight_map, shapes=shapes)
    by_path: dict[str, list[WeightEntry]] = {}
    for entry in weight_map.entries:
        by_path.setdefault(entry.path, []).append(entry)
    parameters: dict[str, Any] = {}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        for path in sorted(by_path, key=lambda path: -math.prod(shapes[path])):
            array = _empty_aligned(shapes[path], np.dtype(dtype))
            list(threads.map(lambda entry, array=array: _copy_entry(files, entry, array), by_path[path]))
            set_path(parameters, path, place(path, array))
            del array
    return parameters


def read_scalars(files: TensorFiles, weight_map: WeightMap) -> dict[str, float]:
    """Return `logit_scale` (a logarithm) and `logit_bias` of the file, if any; raise `ValueError` for invalid ones."""
    scalars = {}
    for name, tensor in weight_map.scalars.items():
        if tensor not in files:
            continue
        if math.prod(files[tensor].shape) != 1 or files[tensor].dtype.name not in FLOATS:
            raise ValueError(f"{tensor} has shape {list(files[tensor].shape)}; it must be one floating-point number")
        with files.borrow(tensor) as array:
            scalars[name] = float(array.reshape(())[()])
        if not abs(scalars[name]) < _LARGEST_SCALAR:
            raise ValueError(
                f"{tensor} is {scalars[name]}; its magnitude must be below {_LARGEST_SCALAR:g}. Download or export the "
                "checkpoint again."
            )
    return scalars


def to_tensors(
    weight_map: WeightMap,
    parameters: Mapping[str, Any],
    *,
    scalars: Mapping[str, float] | None = None,
    dtype: Any = None,
) -> dict[str, np.ndarray]:
    """Return the tensors of the file, in `dtype`, by default that of the parameters, with the given scalars."""
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(parameters)}
    shapes = {path: array.shape for path, array in arrays.items()}
    stored = np.dtype(dtype) if dtype is not None else next(iter(arrays.values())).dtype
    tensors = {name: np.empty(shape, stored) for name, shape in tensor_shapes(weight_map, shapes).items()}
    for entry in weight_map.entries:
        array = arrays[entry.path] if entry.layer is None else arrays[entry.path][entry.layer]
        view = _view(tensors[entry.name], entry)
        view[...] = array.reshape(view.shape)
    for name, tensor in weight_map.scalars.items():
        if scalars and name in scalars:
            tensors[tensor] = np.full(weight_map.scalar_shape, scalars[name], stored)
    return tensors


def _copy_entry(files: TensorFiles, entry: WeightEntry, array: np.ndarray) -> None:
    """Copy the part of a tensor that an entry describes into the model's array, or into one layer of it."""
    target = array if entry.layer is None else array[entry.layer]
    with files.borrow(entry.name) as tensor:
        view = _view(tensor, entry)
        target.reshape(view.shape)[...] = view


def _view(tensor: np.ndarray, entry: WeightEntry) -> np.ndarray:
    height = len(tensor) // entry.parts
    part = tensor[entry.part * height : (entry.part + 1) * height]
    return part if entry.axes is None else part.transpose(entry.axes)


def _empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


# Nested dicts, addressed by paths such as "vision/encoder/norm/scale"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each path of nested dicts with its value."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path of nested dicts."""
    *parents, last = path.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value


def get_path(tree: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path of nested dicts."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


# Entries of PyTorch's layers


def linear(name: str, path: str, *, layer: int | None = None, bias: bool = True) -> Iterator[WeightEntry]:
    """Yield the entries of a `torch.nn.Linear`, whose weight is `[out, in]`."""
    yield WeightEntry(f"{name}.weight", f"{path}/kernel", layer, axes=(1, 0))
    if bias:
        yield WeightEntry(f"{name}.bias", f"{path}/bias", layer)


def fused_linears(
    weight: str, bias: str, *, path: str, parts: Sequence[str], layer: int | None = None
) -> Iterator[WeightEntry]:
    """Yield the entries of several linear layers whose outputs are stacked in one weight and one bias."""
    for number, name in enumerate(parts):
        cut = {"part": number, "parts": len(parts)}
        yield WeightEntry(weight, f"{path}/{name}/kernel", layer, axes=(1, 0), **cut)
        yield WeightEntry(bias, f"{path}/{name}/bias", layer, **cut)


def norm(name: str, path: str, *, layer: int | None = None) -> Iterator[WeightEntry]:
    """Yield the entries of a `torch.nn.LayerNorm`."""
    yield WeightEntry(f"{name}.weight", f"{path}/scale", layer)
    yield WeightEntry(f"{name}.bias", f"{path}/bias", layer)


def convolution(name: str, path: str, *, patch_size: int, width: int, bias: bool) -> Iterator[WeightEntry]:
    """Yield the entries of a patch embedding as a `torch.nn.Conv2d`, whose weight is `[out, in, height, width]`."""
    view = (patch_size, patch_size, 3, width)
    yield WeightEntry(f"{name}.weight", f"{path}/kernel", axes=(2, 3, 1, 0), view=view)
    if bias:
        yield WeightEntry(f"{name}.bias", f"{path}/bias")

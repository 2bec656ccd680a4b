"""How a file's tensors are laid out in a model's parameters: one table of entries, read in both directions."""

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
_ALIGNMENT = 64  # bytes, at which JAX takes an array of the host over as it is
_LISTED = 8
_LARGEST_SCALAR = 100.0  # of a logarithm or a bias

Place = Callable[[str, np.ndarray], Any]


class Entry(NamedTuple):
    """A part of a file's tensor, and the array of the model that holds it.

    Axis 0 of tensor `name` is cut into `parts` equal ones; number `part`, with its axes in the order `axes` (None: as
    they are), has shape `view` (None: that of the array) and is the array at `path`, or its layer `layer`. The order of
    numbers is then the same on both sides, whatever the shape.
    """

    name: str
    path: str
    layer: int | None = None
    axes: tuple[int, ...] | None = None
    view: tuple[int, ...] | None = None
    part: int = 0
    parts: int = 1


@dataclasses.dataclass(frozen=True)
class Layout:
    """`entries` of the towers, names of the tensors with `logit_scale` and `logit_bias`, and the shape of those two.

    `ignored` is a pattern of names that carry no weights.
    """

    entries: tuple[Entry, ...]
    scalars: Mapping[str, str]
    scalar_shape: tuple[int, ...] = (1,)
    ignored: str = r"(^|\.)position_ids$"


def tensor_shapes(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each of the file's tensors for a model whose arrays have `shapes` by path."""
    found = {}
    for entry in layout.entries:
        array = shapes[entry.path] if entry.layer is None else shapes[entry.path][1:]
        view = array if entry.view is None else entry.view
        shape = list(view)
        for place, axis in enumerate(entry.axes or range(len(view))):
            shape[axis] = view[place]
        shape[0] *= entry.parts
        found[entry.name] = tuple(shape)
    return found


def check_depth(settings: ModelSettings, tensors: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` for more layers than there are tensors, before any list of them is made."""
    depth = settings.vision.depth + settings.text.depth
    if depth > len(tensors):
        raise ValueError(f"the config has {depth:,} layers, and the file {len(tensors):,} tensors")


def check_tensors(tensors: Mapping[str, Tensor], layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises `ValueError` that lists what is missing, superfluous or of another shape than the model has."""
    expected = tensor_shapes(layout, shapes)
    scalars = set(layout.scalars.values())
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [
        f"unexpected {name}"
        for name in tensors
        if name not in expected and name not in scalars and not re.search(layout.ignored, name)
    ]
    problems += [
        f"{name} has shape {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems += [
        f"{name} has dtype {tensors[name].dtype}, which is no floating-point number"
        for name in expected
        if name in tensors and tensors[name].dtype.name not in FLOATS
    ]
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ValueError("the tensors do not fit the config: " + "; ".join(problems[:_LISTED]) + more)


def read_parameters(
    files: TensorFiles, layout: Layout, shapes: Mapping[str, tuple[int, ...]], *, dtype: Any, place: Place
) -> dict[str, Any]:
    """Returns the towers' parameters as nested dicts of what `place(path, array)` makes of each array.

    One array after the other is put together from the tensors, which are mapped into memory one by one, the largest
    first: no more of the file is in memory than that. Raises as `check_tensors` does.
    """
    check_tensors(files, layout, shapes)
    by_path: dict[str, list[Entry]] = {}
    for entry in layout.entries:
        by_path.setdefault(entry.path, []).append(entry)
    parameters: dict[str, Any] = {}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        for path in sorted(by_path, key=lambda path: -math.prod(shapes[path])):
            array = _aligned(shapes[path], np.dtype(dtype))
            list(threads.map(lambda entry, array=array: _read(files, entry, array), by_path[path]))
            set_path(parameters, path, place(path, array))
            del array
    return parameters


def read_scalars(files: TensorFiles, layout: Layout) -> dict[str, float]:
    """Returns `logit_scale` (a log) and `logit_bias`, those that the file has; raises `ValueError` for what is none."""
    scalars = {}
    for name, tensor in layout.scalars.items():
        if tensor not in files:
            continue
        if math.prod(files[tensor].shape) != 1 or files[tensor].dtype.name not in FLOATS:
            raise ValueError(f"{tensor} has shape {list(files[tensor].shape)}; it must be one floating-point number")
        with files.borrow(tensor) as array:
            scalars[name] = float(array.reshape(())[()])
        if not abs(scalars[name]) < _LARGEST_SCALAR:
            raise ValueError(f"{tensor} is {scalars[name]}, which no training ends with; fetch or export it again")
    return scalars


def to_tensors(
    layout: Layout, parameters: Mapping[str, Any], *, scalars: Mapping[str, float] | None = None, dtype: Any = None
) -> dict[str, np.ndarray]:
    """Returns the file's tensors, in `dtype` or in that of the parameters, of the scalars those that are given."""
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(parameters)}
    shapes = {path: array.shape for path, array in arrays.items()}
    kept = np.dtype(dtype) if dtype is not None else next(iter(arrays.values())).dtype
    tensors = {name: np.empty(shape, kept) for name, shape in tensor_shapes(layout, shapes).items()}
    for entry in layout.entries:
        array = arrays[entry.path] if entry.layer is None else arrays[entry.path][entry.layer]
        view = _view(tensors[entry.name], entry)
        view[...] = array.reshape(view.shape)
    for name, tensor in layout.scalars.items():
        if scalars and name in scalars:
            tensors[tensor] = np.full(layout.scalar_shape, scalars[name], kept)
    return tensors


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the paths of nested dicts and what is there."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Puts a value into nested dicts."""
    *parents, last = path.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value


def get_path(tree: Mapping[str, Any], path: str) -> Any:
    """Returns what lies at a path of nested dicts."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


def linear(name: str, path: str, layer: int | None = None, *, bias: bool = True) -> Iterator[Entry]:
    """Yields the entries of a `torch.nn.Linear`, whose weight is `[out, in]`."""
    yield Entry(f"{name}.weight", f"{path}/kernel", layer, axes=(1, 0))
    if bias:
        yield Entry(f"{name}.bias", f"{path}/bias", layer)


def linears(
    weight: str, bias: str, path: str, names: Sequence[str], layer: int | None = None, *, before: str = ""
) -> Iterator[Entry]:
    """Yields the entries of several linear maps, one below the other in one weight and one bias."""
    for number, name in enumerate(names):
        cut = {"part": number, "parts": len(names)}
        yield Entry(before + weight, f"{path}/{name}/kernel", layer, axes=(1, 0), **cut)
        yield Entry(before + bias, f"{path}/{name}/bias", layer, **cut)


def norm(name: str, path: str, layer: int | None = None) -> Iterator[Entry]:
    """Yields the entries of a `torch.nn.LayerNorm`."""
    yield Entry(f"{name}.weight", f"{path}/scale", layer)
    yield Entry(f"{name}.bias", f"{path}/bias", layer)


def convolution(name: str, path: str, patch_size: int, width: int, *, bias: bool) -> Iterator[Entry]:
    """Yields the entries of a patch embedding that is a `torch.nn.Conv2d`, of weight `[out, in, height, width]`."""
    view = (patch_size, patch_size, 3, width)
    yield Entry(f"{name}.weight", f"{path}/kernel", axes=(2, 3, 1, 0), view=view)
    if bias:
        yield Entry(f"{name}.bias", f"{path}/bias")


def _read(files: TensorFiles, entry: Entry, array: np.ndarray) -> None:
    target = array if entry.layer is None else array[entry.layer]
    with files.borrow(entry.name) as tensor:
        view = _view(tensor, entry)
        target.reshape(view.shape)[...] = view


def _view(tensor: np.ndarray, entry: Entry) -> np.ndarray:
    height = len(tensor) // entry.parts
    part = tensor[entry.part * height : (entry.part + 1) * height]
    return part if entry.axes is None else part.transpose(entry.axes)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def parameter_shapes(settings: ModelSettings) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each parameter of the towers by path; nothing is computed."""
    from models.towers import create_model

    return {path: leaf.shape for path, leaf in flatten(jax.eval_shape(lambda: create_model(settings).init(0)))}

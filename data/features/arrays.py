"""Arrays `[rows, dim]` in `.npy` and `.safetensors` files, mapped into memory rather than read."""

from __future__ import annotations

import json
import os
import pathlib

import ml_dtypes
import numpy as np

from foundation.error_text import one_line

SUFFIXES = (".safetensors", ".npy")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16}
_MAX_HEADER = 100 << 20  # bytes
_PREFERRED = "embeddings"  # the name that `embed` gives the tensor


def open_array(path: str | os.PathLike) -> np.ndarray:
    """Return the array `[rows, dim]` of floats in a file, mapped into memory.

    Raises `FileNotFoundError` for a missing file, and `ValueError` for one that is not such an array.
    """
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is not a file of features. Use {' or '.join(SUFFIXES)}, or a folder of `embed`.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of features {path}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False) if path.suffix == ".npy" else _map_safetensors(path)
    except (ValueError, OSError, KeyError, TypeError, EOFError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as features ({one_line(error)}). Write the file again.") from error
    check_array(array, name=path)
    return array


def check_array(array: np.ndarray, *, name: str | os.PathLike) -> None:
    """Raise `ValueError` for an array that is not features `[rows, dim]` of floats; `name` is that in the message."""
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} has shape {list(array.shape)}; features are [rows, dim], with at least one row")
    if array.dtype not in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        raise ValueError(f"{name} has dtype {array.dtype}. Store the features as float32 or float16.")


def _map_safetensors(path: pathlib.Path) -> np.ndarray:
    """Return the tensor of a file; of several, the one named `embeddings`."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(_MAX_HEADER, path.stat().st_size - 8):
            raise ValueError("the header is damaged")
        header = json.loads(file.read(length))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    name = _PREFERRED if _PREFERRED in tensors else next(iter(tensors), None)
    if name is None or (len(tensors) > 1 and name != _PREFERRED):
        raise ValueError(f"it has the tensors {', '.join(sorted(tensors)) or 'none'}; name one of them {_PREFERRED}")
    entry = tensors[name]
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"the tensor {name} has dtype {entry['dtype']}; store it as F32 or F16")
    start, stop = entry["data_offsets"]
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    if stop - start != int(np.prod(shape)) * dtype.itemsize or 8 + length + stop > path.stat().st_size:
        raise ValueError("it is cut off")
    return np.memmap(path, dtype, "r", offset=8 + length + start, shape=shape)

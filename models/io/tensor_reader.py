"""Reading tensors in place, without unpickling: from one or several safetensors files, or from an `.npz` file."""

from __future__ import annotations

import io
import json
import logging
import math
import mmap
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import ml_dtypes
import numpy as np

from foundation.error_text import one_line
from foundation.files.checksum_file import SUMS_FILE, changed_files, read_checksums
from foundation.files.safe_json import read_json

logger = logging.getLogger(__name__)

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_INDEX_SUFFIX = ".index.json"
_PICKLE_DANGER = "Opening a pickle can run arbitrary code"
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
FLOATS = ("float32", "bfloat16", "float16", "float64")
_HEADER_LIMIT = 100_000  # bytes of the header of an array in an .npz


class Tensor(NamedTuple):
    """The position of a tensor: `offset` bytes into file number `file`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: int
    offset: int

    @property
    def nbytes(self) -> int:
        """The size of the tensor in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of one or more files by name; `borrow` maps one of them into memory temporarily."""

    def __init__(self, paths: list[pathlib.Path], tensors: dict[str, Tensor]):
        self.paths, self._tensors = tuple(paths), tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @contextmanager
    def borrow(self, name: str) -> Iterator[np.ndarray]:
        """Yield a read-only view of a tensor, which must not be used after the `with` block."""
        tensor = self[name]
        if not tensor.nbytes:
            yield np.empty(tensor.shape, tensor.dtype)
            return
        first = tensor.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with open(self.paths[tensor.file], "rb") as file:
            length = tensor.offset - first + tensor.nbytes
            mapped = mmap.mmap(file.fileno(), length, offset=first, access=mmap.ACCESS_READ)
        values = np.frombuffer(mapped, tensor.dtype, math.prod(tensor.shape), tensor.offset - first)
        yield values.reshape(tensor.shape)

    def check(self) -> None:
        """Read all files and compare them with their checksums: those in the `.npz` archive, or in `SHA256SUMS`.

        Files in a folder without `SHA256SUMS` pass. Raises `ValueError` for damaged files.
        """
        for path in self.paths:
            if path.suffix == ".npz":
                with zipfile.ZipFile(path) as archive:
                    damaged = archive.testzip()
                if damaged is not None:
                    raise ValueError(
                        f"{path} is damaged: {damaged} does not have its checksum. Restore it from a copy."
                    )
            elif (path.parent / SUMS_FILE).is_file() and path.name not in read_checksums(path.parent):
                logger.warning(f"{path.parent / SUMS_FILE} does not list {path.name}, which is therefore not checked")
            elif changed_files(path.parent, [path.name]):
                raise ValueError(
                    f"{path} does not have the checksum in {SUMS_FILE}: it is damaged or was changed. Restore it from "
                    "a copy, or export or download it again. If it was changed on purpose, remove "
                    f"{path.parent / SUMS_FILE} to skip the check."
                )

    @property
    def float_dtype(self) -> str:
        """The floating-point dtype that takes the most bytes of the files."""
        sizes = {name: sum(tensor.nbytes for tensor in self.values() if tensor.dtype.name == name) for name in FLOATS}
        return max(sizes, key=sizes.__getitem__)


def open_tensors(path: str | os.PathLike) -> TensorFiles:
    """Open a `.safetensors` file, the `.safetensors.index.json` of several, or an `.npz` file; read only the headers.

    Raises `FileNotFoundError`, and `ValueError` for pickles and for damaged files, whose headers do not match their
    size.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    if path.suffix in PICKLES:
        raise pickle_error(path)
    with open(path, "rb"):  # raises the usual error without read permission
        pass
    if path.name.endswith(_INDEX_SUFFIX):
        return _open_index(path)
    if path.suffix == ".npz":
        return TensorFiles([path], _npz_tensors(path))
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a supported weights file. Supported: .safetensors, .npz.")
    return TensorFiles([path], _safetensors(path, 0))


def pickle_error(path: pathlib.Path) -> ValueError:
    """Return the error for a file that only `pickle` can open."""
    return ValueError(
        f"{path} is a pickle file. {_PICKLE_DANGER}, so pickles are not supported. Save the weights as .safetensors "
        "with the library that wrote them (transformers: model.save_pretrained(folder))."
    )


def _open_index(path: pathlib.Path) -> TensorFiles:
    try:
        files = read_json(path)["weight_map"]
        names = sorted(set(files.values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of tensors: weight_map must map tensor names to files") from error
    paths, tensors = [], {}
    for name in names:
        if not isinstance(name, str) or pathlib.PurePath(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{path} lists {name!r}, which is not a .safetensors file in the same folder")
        part = path.parent / name
        if not part.is_file():
            raise FileNotFoundError(f"{path} lists {name}, which does not exist. Download the whole checkpoint.")
        found = _safetensors(part, len(paths))
        paths.append(part)
        tensors |= {tensor: where for tensor, where in found.items() if files.get(tensor) == name}
    missing = sorted(set(files) - set(tensors))
    if missing:
        raise ValueError(f"{path} lists {missing[0]} in {files[missing[0]]}, which does not contain it")
    return TensorFiles(paths, tensors)


def _safetensors(path: pathlib.Path, number: int) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # checks the header against the file
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Download or export it again.") from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: {name} has unsupported dtype {entry['dtype']}")
        start = 8 + length + entry["data_offsets"][0]
        tensors[name] = Tensor(tuple(entry["shape"]), _DTYPES[entry["dtype"]], number, start)
    return tensors


def _npz_tensors(path: pathlib.Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            return {info.filename.removesuffix(".npy"): _npz_tensor(info, file, size) for info in archive.infolist()}
    except Exception as error:  # damaged archives and headers raise many kinds of errors
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from error


def _npz_tensor(info: zipfile.ZipInfo, file: io.BufferedReader, size: int) -> Tensor:
    """Return the position of an array, which must be an uncompressed member of the archive."""
    name = info.filename
    if not name.endswith(".npy"):
        raise ValueError(f"{name} is not an array")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"{name} is compressed or encrypted. Write it with numpy.savez, which does neither.")
    file.seek(info.header_offset)
    local = file.read(30)
    start = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if local[:4] != b"PK\x03\x04" or start + info.file_size > size:
        raise ValueError(f"{name} is damaged")
    file.seek(start)
    content = io.BytesIO(file.read(min(info.file_size, _HEADER_LIMIT)))
    version = np.lib.format.read_magic(content)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name} has unsupported version {version} of the .npy format")
    shape, fortran_order, dtype = read(content, max_header_size=_HEADER_LIMIT)
    if dtype.hasobject:
        raise ValueError(f"{name} is a pickled array. {_PICKLE_DANGER}, so pickles are not supported.")
    if dtype == np.dtype("V2"):  # how NumPy stores bfloat16
        dtype = np.dtype(ml_dtypes.bfloat16)
    if dtype.name not in FLOATS:
        raise ValueError(f"{name} has dtype {dtype}, which is not a floating-point type")
    if fortran_order and len(shape) > 1:
        raise ValueError(f"{name} is stored in Fortran order. Save it after numpy.ascontiguousarray.")
    tensor = Tensor(tuple(shape), dtype, 0, start + content.tell())
    if any(length < 0 for length in shape) or content.tell() + tensor.nbytes != info.file_size:
        raise ValueError(
            f"{name} needs {tensor.nbytes:,} bytes of data after its header, but has {info.file_size:,} bytes in all"
        )
    return tensor

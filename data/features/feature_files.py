"""The files of a data set of stored features: a folder or an `.npz`, with features, labels and names by their name.

    FOLDER/  support.npy  support_labels.npy or .txt  query.npy  query_labels.npy or .txt  classes.txt  texts.npy
    FILE.npz with the arrays support, support_labels, query, query_labels, classes, texts

Features are `.npy` or `.safetensors` files, or folders that `embed` has written (`FOLDER/support/images.safetensors`).
"""

from __future__ import annotations

import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data.features.arrays import SUFFIXES, check_array
from data.features.open import Features, open_features
from data.io.fingerprint import fingerprint
from foundation.error_text import one_line
from foundation.files.lines import split_lines

LAYOUTS = (("support", "query"), ("train", "test"), ("images", ""), ("features", ""))  # support and query
TEXTS, CLASSES = ("texts", "text"), ("classes", "class_names", "classnames")
_VALUES = (".npy", ".txt")


class FeatureFiles(Protocol):
    """A folder or an archive with the parts of a data set."""

    path: pathlib.Path

    def names(self) -> list[str]:
        """Return the names of the parts that have features."""

    def features(self, name: str, *, kind: str) -> Features:
        """Return the features of a part; `kind` is "images" or "texts"."""

    def values(self, name: str) -> np.ndarray | None:
        """Return integers or strings `[n]`, or None if there are none of this name."""

    def label_names(self, part: str) -> list[str]:
        """Return the names that the labels of a part may have."""


def open_feature_files(path: str | os.PathLike) -> FeatureFiles:
    """Return the files of a data set: an `.npz`, or a folder."""
    path = pathlib.Path(path)
    return FeatureArchive(path) if path.suffix == ".npz" else FeatureFolder(path)


def split_parts(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the path in `PATH:SUPPORT:QUERY`, and the names of both parts; none for a path that exists."""
    if os.path.exists(name) or name.count(":") < 2:
        return name, ()
    path, *parts = name.rsplit(":", 2)
    return path, tuple(parts)


def is_feature_dataset(path: str | os.PathLike, *parts: str) -> bool:
    """Return whether a path is an `.npz`, or a folder that has one of the parts, by default of `LAYOUTS`."""
    path = pathlib.Path(path)
    if path.is_file():
        return path.suffix == ".npz"
    known = parts or tuple(part for layout in LAYOUTS for part in layout if part)
    return path.is_dir() and bool(set(known) & set(FeatureFolder(path).names()))


def find_values(files: FeatureFiles, names: Sequence[str], *, what: str) -> np.ndarray | None:
    """Return the values of the one name that exists, or None; raise `ValueError` where several do."""
    found = {name: values for name in names if (values := files.values(name)) is not None}
    if len(found) > 1:
        raise ValueError(f"{files.path} has two {what}: {' and '.join(found)}. Remove one of them.")
    return next(iter(found.values()), None)


class FeatureFolder:
    """The data set in a folder."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def names(self) -> list[str]:
        """Return the names of feature files, and of folders that `embed` has written."""
        found = set()
        for entry in self.path.iterdir():
            if entry.suffix in SUFFIXES and not _is_values(entry.stem):
                found.add(entry.stem)
            elif any((entry / f"{kind}{suffix}").is_file() for kind in ("images", "texts") for suffix in SUFFIXES):
                found.add(entry.name)
        return sorted(found)

    def features(self, name: str, *, kind: str) -> Features:
        """Open the features of a part; raises as `open_features` does."""
        own = next(
            (self.path / (name + suffix) for suffix in SUFFIXES if (self.path / (name + suffix)).is_file()), None
        )
        if own is not None and (self.path / name).is_dir():
            raise ValueError(f"{self.path} has both {own.name} and a folder {name}. Remove one of them.")
        return open_features([self.path / name if own is None else own], kind=kind)

    def values(self, name: str) -> np.ndarray | None:
        """Read `NAME.npy`, or `NAME.txt` with one value per line."""
        found = [self.path / (name + suffix) for suffix in _VALUES if (self.path / (name + suffix)).is_file()]
        if len(found) > 1:
            raise ValueError(f"{self.path} has both {found[0].name} and {found[1].name}. Remove one of them.")
        if not found:
            return None
        if found[0].suffix == ".txt":
            return _read_lines(found[0])
        try:
            array = np.load(found[0], allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{found[0]} cannot be read ({one_line(error)}). {_STORE}") from error
        return _check_values(array, name=str(found[0]))

    def label_names(self, part: str) -> list[str]:
        """Return the names next to the features of a part and, for a folder of `embed`, in it."""
        return [*_label_names(part), f"{part}/labels", f"{part}/images_labels"]


class FeatureArchive:
    """The data set in an `.npz`, whose arrays are read when they are needed."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            self._arrays = np.load(path, allow_pickle=False)
            self._names = list(self._arrays.files)
        except FileNotFoundError:
            raise
        except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read as an .npz ({one_line(error)}). Write the file again.") from error

    def names(self) -> list[str]:
        """Return the names of the arrays `[rows, dim]`, and of parts of `LAYOUTS` whatever their shapes are."""
        known = {part for layout in LAYOUTS for part in layout}
        return sorted(name for name in self._names if name in known or (not _is_values(name) and self._ndim(name) == 2))

    def features(self, name: str, *, kind: str) -> Features:
        """Read the features of a part; ids are the array `NAME_ids`, if there is one."""
        where = f"{self.path}:{name}"
        array = self._read(name)
        check_array(array, name=where)
        ids = self.values(f"{name}_ids")
        if ids is not None and len(ids) != len(array):
            raise ValueError(f"{self.path} has {len(ids):,} {name}_ids, but {len(array):,} rows of {name}.")
        source = {"source": where, "samples": len(array), "fingerprint": fingerprint(array)}
        return Features((array,), None if ids is None else tuple(map(str, ids)), {}, (source,))

    def values(self, name: str) -> np.ndarray | None:
        """Read an array of integers or strings."""
        return _check_values(self._read(name), name=f"{self.path}:{name}") if name in self._names else None

    def label_names(self, part: str) -> list[str]:
        """Return the names of arrays."""
        return _label_names(part)

    def _ndim(self, name: str) -> int | None:
        """Return the number of dimensions of an array, without reading it, or None for a damaged one."""
        try:
            with self._arrays.zip.open(f"{name}.npy") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
                return len(read(file)[0])
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def _read(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise FileNotFoundError(f"{self.path} has no array {name}. It has: {', '.join(self._names)}.")
        try:
            return self._arrays[name]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.path}:{name} cannot be read ({one_line(error)}). {_STORE}") from error


_STORE = "Store integers, or strings as np.array(labels, dtype=str)."


def _label_names(part: str) -> list[str]:
    """Return `support_16_labels` and `support_labels_16` for the part `support_16`."""
    return list(dict.fromkeys([f"{part}_labels", re.sub(r"^([^\W\d_]+)", r"\1_labels", part)]))


def _is_values(name: str) -> bool:
    return "labels" in name.split("_") or name in CLASSES or name.endswith("_ids")


def _read_lines(path: pathlib.Path) -> np.ndarray:
    """Return the lines of a text file, as integers if all are."""
    try:
        lines = [line.strip() for line in split_lines(path.read_bytes().decode("utf-8-sig"))]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}. Convert the file.") from error
    if not lines or "" in lines:
        where = f"line {lines.index('') + 1} of {path} is empty" if lines else f"{path} is empty"
        raise ValueError(f"{where}. Write one value per line.")
    return as_integers(np.array(lines))


def as_integers(values: np.ndarray) -> np.ndarray:
    """Return strings as integers if all of them are, without leading zeros; other arrays unchanged."""
    if values.dtype.kind == "U" and all(re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value) for value in values.tolist()):
        return values.astype(np.int64)
    return values


def _check_values(array: np.ndarray, *, name: str) -> np.ndarray:
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} has bytes that are not UTF-8. {_STORE}") from error
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} has shape {list(array.shape)}; labels and names are [rows], one value per row.")
    if array.dtype.kind == "U":
        return as_integers(array)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {array.dtype}. {_STORE}")
    if array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} has the value {array.max()}, which is too large. Number the classes from 0.")
    return array.astype(np.int64)

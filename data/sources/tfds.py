"""Datasets of TensorFlow Datasets (TFDS), read without TensorFlow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from data.io.fingerprint import fingerprint
from data.sources.base import BadRecord, ContentDigest, Record, find_texts
from data.sources.content import SAMPLES, evenly_spaced, record_digests

PREFIX = "tfds:"
NAME = re.compile(r"(?P<builder>[\w./-]+(?::\d+\.\d+\.\d+)?):(?P<split>[A-Za-z_].*)")


class TfdsSource:
    """A `Source` of a split of a prepared dataset, `NAME[/CONFIG][:VERSION]:SPLIT`, such as `cifar10:train[:90%]`.

    The dataset must have been prepared in the ArrayRecord format in `data_dir`; the error message gives the command.
    The image is the first image feature, the class the first class label. The texts are those of the first of
    `text_keys` that a sample has; features within sequences are named `a/b`.
    """

    def __init__(self, name: str, *, data_dir: str | os.PathLike, text_keys: tuple[str, ...]):
        import tensorflow_datasets as tfds

        match = NAME.fullmatch(name)
        if not match:
            raise ValueError(f"{PREFIX}{name} has no split. Write {PREFIX}NAME[/CONFIG][:VERSION]:SPLIT.")
        self._name, self._text_keys = name, text_keys
        try:
            builder = tfds.builder(match["builder"], data_dir=data_dir, file_format="array_record")
            if not builder.is_prepared():
                raise FileNotFoundError(preparation_steps(match["builder"], data_dir))
            features = dict(_leaves(builder.info.features))
            images = [path for path, feature in features.items() if isinstance(feature, tfds.features.Image)]
            if len(images) == 0 or len(images[0]) > 1:
                raise ValueError(
                    f"{PREFIX}{name} has no single image feature; its features are {', '.join(map('/'.join, features))}"
                )
            self._image_key = images[0][0]
            skip = {self._image_key: tfds.decode.SkipDecoding()}
            self._data = builder.as_data_source(split=match["split"], decoders=skip)
        except tfds.core.DatasetNotFoundError as error:
            raise FileNotFoundError(
                f"{PREFIX}{match['builder']} is not a dataset in {os.fspath(data_dir)}, nor one that TFDS can prepare. "
                "For names, see https://www.tensorflow.org/datasets/catalog."
            ) from error
        labels = [path for path, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
        self._label_key = next((path[0] for path in labels if len(path) == 1), None)
        self.class_names = list(features[(self._label_key,)].names) if self._label_key else []
        self._length = len(self._data)
        if not self._length:
            raise ValueError(f"{PREFIX}{name} is empty")
        self.fingerprint = fingerprint(builder.info.full_name, match["split"], str(self._length), *text_keys)
        self._folder = os.fspath(builder.data_path)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        key = self.key(index)
        fields = self._data[index]
        label = None if self._label_key is None else int(fields[self._label_key])
        name = self.class_names[label] if label is not None and 0 <= label < len(self.class_names) else None
        image = fields[self._image_key]
        if not isinstance(image, bytes):
            raise BadRecord("no image", key, f"its {self._image_key} is of type {type(image).__name__}")
        texts = find_texts(dict(_flatten(fields)), self._text_keys, key=key)
        return Record(key=key, image=image, texts=texts, label=label if name is not None else None, class_name=name)

    def content_fingerprint(self) -> str:
        """Return a hash of the prepared files' names, sizes and modification times."""
        files = [(file.name, file.stat()) for file in os.scandir(self._folder)]
        stamps = sorted(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in files)
        return fingerprint(self.fingerprint, *stamps)

    def content_digests(self) -> list[ContentDigest]:
        """Return digests of the dataset's name and version, and of the content of some samples."""
        name = ContentDigest(f"{PREFIX}{self._name}", self.fingerprint)
        return [name, *record_digests(self, evenly_spaced(len(self), SAMPLES))]

    def texts(self, index: int) -> tuple[str, ...]:
        """Return the texts of a sample; reads the whole sample."""
        return self[index].texts

    def key(self, index: int) -> str:
        """Return `tfds:NAME:SPLIT:NUMBER`."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return f"{PREFIX}{self._name}:{index}"


def preparation_steps(builder: str, data_dir: str | os.PathLike) -> str:
    """Return instructions for preparing a dataset, `NAME[/CONFIG][:VERSION]`, in `data_dir`."""
    data_dir = os.fspath(data_dir)
    return (
        f"{PREFIX}{builder} is not prepared in {data_dir}. Set data_dir to its folder, or prepare it: python -c "
        f"\"import tensorflow_datasets as tfds; tfds.builder('{builder}', data_dir='{data_dir}', "
        "file_format='array_record').download_and_prepare()\""
    )


def _leaves(feature: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the feature of every leaf."""
    inner = getattr(feature, "feature", feature)  # the repeated feature of a sequence
    if isinstance(inner, Mapping) or hasattr(inner, "items"):
        for name, part in inner.items():
            yield from _leaves(part, (*path, name))
    else:
        yield path, feature


def _flatten(fields: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield values with their paths; sequences become lists."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}{name}/")
        elif isinstance(value, str | bytes):
            yield path + name, value
        elif isinstance(value, list) or getattr(value, "ndim", 0):
            yield path + name, list(value)

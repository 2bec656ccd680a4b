"""Samples in ArrayRecord files of `tf.train.Example` records, read without TensorFlow."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from data.io.fingerprint import fingerprint
from data.io.storage import File, is_remote
from data.sources.base import BadRecord, ContentDigest, Record, find_texts, parse_class
from data.sources.content import SAMPLES, evenly_spaced, record_digests


class ArrayRecords:
    """A `Source` of the records of several ArrayRecord files, one file after the other.

    Each record is a `tf.train.Example`. The encoded image is read from the first of `image_keys` that it has, one or
    more texts from the first of `text_keys`, and the class from the optional features `label` (a number) and `class`.
    """

    def __init__(self, files: Sequence[File], *, image_keys: tuple[str, ...], text_keys: tuple[str, ...]):
        remote = next((file.path for file in files if is_remote(file.path)), None)
        if remote:
            raise ValueError(
                f"{remote} is remote; ArrayRecord files are read from local paths only. Copy or mount them."
            )
        self._paths = [file.path for file in files]
        self._image_keys, self._text_keys = image_keys, text_keys
        self._lock, self._opened = threading.Lock(), None
        try:
            self._length = len(self._reader())
        except Exception as error:  # the reader has its own error types
            raise ValueError(f"{self._paths[0]} or another file is not a valid ArrayRecord file ({error})") from error
        if not self._length:
            raise ValueError(f"no record in {len(files)} file(s) such as {self._paths[0]}")
        sizes = (f"{file.name} {file.size}" for file in files)
        self.fingerprint = fingerprint(*sizes, *image_keys, *text_keys)
        self._sizes = [ContentDigest(file.name, str(file.size)) for file in files]
        self._stamps = [file.stamp for file in files]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_opened": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": threading.Lock()})

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        key = self.key(index)
        try:
            content = self._reader()[index]
        except RuntimeError as error:  # raised by the reader for a damaged chunk
            raise BadRecord("fields not readable", key, f"the record cannot be read ({error})") from error
        fields = parse_example(content, key)
        image = next((fields[name] for name in self._image_keys if fields.get(name)), None)
        if image is None:
            raise BadRecord(
                "no image", key, f"the record has no image, only {', '.join(sorted(fields)) or 'no features'}"
            )
        label, name = (next(iter(fields.get(field, ())), None) for field in ("label", "class"))
        label, name = parse_class(label, name.decode("utf-8", "replace") if isinstance(name, bytes) else None)
        return Record(
            key=key,
            image=image[0] if isinstance(image[0], bytes) else b"",
            texts=find_texts(fields, self._text_keys, key=key),
            label=label,
            class_name=name,
        )

    def content_fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and modification times."""
        return fingerprint(self.fingerprint, *self._stamps)

    def content_digests(self) -> list[ContentDigest]:
        """Return digests of the files' sizes, and of the content of some records."""
        return [*self._sizes, *record_digests(self, evenly_spaced(len(self), SAMPLES))]

    def texts(self, index: int) -> tuple[str, ...]:
        """Return the texts of a sample; reads the whole record."""
        return self[index].texts

    def key(self, index: int) -> str:
        """Return `FILE:NUMBER`: the name of the first file, and the number of the record among all files, from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return f"{self._paths[0].rpartition('/')[2]}:{index}"

    def _reader(self) -> Any:
        with self._lock:
            if self._opened is None:
                import grain

                self._opened = grain.sources.ArrayRecordDataSource(self._paths)
            return self._opened


def parse_example(content: bytes, key: str) -> dict[str, list]:
    """Return the features of a serialized `tf.train.Example` as lists; raises `BadRecord` if it cannot be parsed."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(content).features.feature
    except DecodeError as error:
        raise BadRecord("fields not readable", key, "the record is not a tf.train.Example") from error
    return {
        name: list(getattr(value, value.WhichOneof("kind") or "bytes_list").value) for name, value in features.items()
    }

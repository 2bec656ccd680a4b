"""What one sample is, what a source of samples offers, and how a sample that cannot be used is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

REASONS = (
    "no image",
    "no caption",
    "missing file",
    "no permission",
    "cut off",
    "empty image",
    "not an image",
    "corrupt image",
    "too many pixels",
    "fields not readable",
    "text not UTF-8",
    "too many bytes",
)
LARGEST_PART = 1 << 30  # bytes of one picture or text; four times what max_pixels takes as RGB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One sample: an encoded image, its texts (the first is its name), and a class number where there is one.

    `key` names the sample in messages, for example `emoji-noto-00000.tar/0000017`; `metadata` are the other fields
    that the source has for it.
    """

    key: str
    image: bytes
    texts: tuple[str, ...] = ()
    label: int | None = None
    class_name: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """A random-access collection of records, as Grain defines a data source.

    `source[i]` raises `BadRecord` for a sample that cannot be used, and `OSError` where the storage fails. `texts(i)`
    are its texts alone, which is less to read, and `key(i)` names it without reading it. `fingerprint` changes when the
    samples or their order may have; `content_fingerprint()` also when a file was written anew, and is None where that
    cannot be told.
    """

    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def texts(self, index: int) -> tuple[str, ...]: ...

    def key(self, index: int) -> str: ...

    def content_fingerprint(self) -> str | None: ...


class BadRecord(ValueError):
    """A sample that cannot be used, for one of `REASONS`."""

    def __init__(self, reason: str, key: str, detail: str):
        super().__init__(f"{key}: {detail}")
        self.reason, self.key, self.detail = reason, key, detail

    def __reduce__(self) -> tuple:
        return BadRecord, (self.reason, self.key, self.detail)

    @property
    def code(self) -> int:
        """The reason's number, from 1."""
        return REASONS.index(self.reason) + 1


def clean_texts(value: object, key: str) -> tuple[str, ...]:
    """Returns the texts that a field holds, a string or a list of them, without blanks around and empty ones."""
    values = (value,) if isinstance(value, str | bytes) else value
    if not isinstance(values, list | tuple) or not all(isinstance(text, str | bytes) for text in values):
        raise BadRecord("fields not readable", key, f"texts must be strings, found {value!r:.80}")
    try:
        texts = [text.decode("utf-8-sig") if isinstance(text, bytes) else text for text in values]
        for text in texts:
            text.encode("utf-8")  # JSON may spell half a surrogate pair
    except UnicodeError as error:
        raise BadRecord("text not UTF-8", key, f"a text is not UTF-8 ({error.reason})") from error
    return tuple(filter(None, (text.strip() for text in texts)))


def find_texts(fields: Mapping[str, Any], keys: tuple[str, ...], key: str) -> tuple[str, ...]:
    """Returns the texts under the first of `keys` that `fields` has; none where it has none of them."""
    for name in keys:
        if fields.get(name) is not None:
            return clean_texts(fields[name], key)
    return ()


def to_label(value: object) -> int | None:
    """Returns the class number that a field spells, or None: what else a field of that name may hold is no label."""
    try:
        number = float(value)
        return int(number) if number.is_integer() else None
    except (TypeError, ValueError, OverflowError):
        return None

"""Records, the protocol of data sources, and the error for unusable samples."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

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
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?")
MAX_PART_BYTES = 1 << 30  # of one image or text: four times the size of max_pixels as RGB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One sample: an encoded image, its texts (the first is its name), and a class label if there is one.

    `key` identifies the sample in messages, for example `emoji-noto-00000.tar/0000017`. `metadata` holds the other
    fields of the sample.
    """

    key: str
    image: bytes
    texts: tuple[str, ...] = ()
    label: int | None = None
    class_name: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class ContentDigest(NamedTuple):
    """A hash of the content of a file or sample; the name is for messages."""

    name: str
    digest: str


@runtime_checkable
class Source(Protocol):
    """A random-access collection of records; compatible with Grain's random-access data sources.

    `source[i]` raises `BadRecord` for an unusable sample and `OSError` if the storage fails. `texts(i)` returns only
    the texts, which reads less. `key(i)` returns the sample's key without reading it. `fingerprint` changes if the
    samples or their order may have changed. `content_fingerprint()` also changes if a file was rewritten; it is None
    if that cannot be detected. `content_digests()` reads parts of the content, the same ones each time: its digests
    do not depend on the names of the files but on their order.
    """

    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def texts(self, index: int) -> tuple[str, ...]: ...

    def key(self, index: int) -> str: ...

    def content_fingerprint(self) -> str | None: ...

    def content_digests(self) -> list[ContentDigest]: ...


class BadRecord(ValueError):
    """An unusable sample, for one of `REASONS`."""

    def __init__(self, reason: str, key: str, detail: str):
        super().__init__(f"{key}: {detail}")
        self.reason, self.key, self.detail = reason, key, detail

    def __reduce__(self) -> tuple:
        return BadRecord, (self.reason, self.key, self.detail)

    @property
    def code(self) -> int:
        """The number of the reason, from 1."""
        return REASONS.index(self.reason) + 1


def clean_texts(value: object, key: str) -> tuple[str, ...]:
    """Return the non-empty texts of a field, a string or a list of strings, stripped of whitespace."""
    values = (value,) if isinstance(value, str | bytes) else value
    if not isinstance(values, list | tuple) or not all(isinstance(text, str | bytes) for text in values):
        raise BadRecord("fields not readable", key, f"texts must be strings, found {value!r:.80}")
    try:
        texts = [text.decode("utf-8-sig") if isinstance(text, bytes) else text for text in values]
        for text in texts:
            text.encode("utf-8")  # JSON can contain half a surrogate pair
    except UnicodeError as error:
        raise BadRecord("text not UTF-8", key, f"a text is not UTF-8 ({error.reason})") from error
    return tuple(filter(None, (text.strip() for text in texts)))


def find_texts(fields: Mapping[str, Any], text_keys: tuple[str, ...], *, key: str) -> tuple[str, ...]:
    """Return the texts of the first of `text_keys` in `fields` that is not empty, or none.

    `key` identifies the sample in errors.
    """
    values = (fields[name] for name in text_keys if fields.get(name) is not None)
    return next(filter(None, (clean_texts(value, key) for value in values)), ())


def parse_label(value: object) -> int | None:
    """Return the class label in a field, or None if the field does not hold a whole number.

    A text is a number if it consists of ASCII digits without leading zeros, with a sign, fraction or exponent if there
    is one: `3`, `-1`, `3.0`, `1e3`, but not `007`, `1_000` or `٣`, which can be names.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if isinstance(value, int | str):
            return int(value)  # exact beyond 2⁵³
    try:
        number = float(value)
        return int(number) if number.is_integer() else None
    except (TypeError, ValueError, OverflowError):
        return None


def parse_class(label: object, name: object) -> tuple[int | None, str | None]:
    """Return the label and the class name in two fields, each None if missing or empty.

    A label in words is the name, also one such as `007`, which `parse_label` does not take for a number.
    """
    if isinstance(name, str) and not name.strip():
        name = None
    number = parse_label(label)
    if name is None and number is None and isinstance(label, str | bytes):
        name = (label.decode("utf-8", "replace") if isinstance(label, bytes) else label).strip() or None
    return number, None if name is None else str(name)

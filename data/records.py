"""What one sample is, and what a source of samples offers."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One sample: an encoded image, its texts (the first is its name), and a class number where there is one.

    `key` names the sample in messages, for example `emoji-noto-00000.tar/0000017`.
    """

    key: str
    image: bytes
    texts: tuple[str, ...] = ()
    label: int | None = None
    class_name: str | None = None


@runtime_checkable
class Source(Protocol):
    """A random-access collection of records, as Grain defines a data source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

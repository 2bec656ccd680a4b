"""The result of inspecting batches."""

from __future__ import annotations

import collections
import dataclasses
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class InspectedRow:
    """One row of a batch.

    key: key of the sample.
    image: `[height, width, 3]`, with dropped patches mixed with white.
    caption: the caption after tokenisation and decoding.
    tokens: number of tokens of the caption.
    """

    key: str
    image: np.ndarray
    caption: str
    tokens: int


class BadRecordDetail(NamedTuple):
    """Why a record cannot be used."""

    reason: str
    detail: str


@dataclasses.dataclass
class Inspection:
    """The rows of the displayed step, and counts over all inspected steps.

    lengths: number of captions by their number of tokens.
    sources: number of rows by source.
    bad: unusable records by key.
    reasons: number of unusable records by reason.
    """

    rows: list[InspectedRow] = dataclasses.field(default_factory=list)
    lengths: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    sources: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    bad: dict[str, BadRecordDetail] = dataclasses.field(default_factory=dict)
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

"""Digests of the content of a source, which do not depend on where its files are and what they are called."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence

from data.io.fingerprint import fingerprint
from data.sources.base import BadRecord, ContentDigest, Source
from foundation.progress import track

SAMPLES = 1024  # of a source, read in full
_READERS = 16  # threads


def evenly_spaced(length: int, count: int) -> list[int]:
    """Return at most `count` different indices below `length`: the middles of equal parts."""
    count = min(length, count)
    return [(2 * number + 1) * length // (2 * count) for number in range(count)]


def record_digests(source: Source, indices: Sequence[int]) -> list[ContentDigest]:
    """Return a digest of each of some records: image, texts and class, or the reason why it cannot be used."""

    def digest(index: int) -> ContentDigest:
        try:
            record = source[index]
        except BadRecord as error:
            return ContentDigest(error.key, fingerprint(error.reason))
        content = fingerprint(record.image, *record.texts, str(record.label), str(record.class_name))
        return ContentDigest(record.key, content)

    with concurrent.futures.ThreadPoolExecutor(_READERS) as threads:
        found = threads.map(digest, indices)
        return list(track(found, total=len(indices), description="reading samples"))

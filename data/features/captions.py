"""Captions that are paired with stored features, and tables of pairs."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.features.pairs import Pairs, count_matches, find_rows, pair_ids, pair_rows
from data.sources.base import BadRecord, find_texts
from data.sources.open import IMAGE_KEYS, ConcatenatedSource, open_sources
from data.sources.tables.caption_table import CaptionTable
from foundation.progress import track

logger = logging.getLogger(__name__)

ID_KEYS = ("id", "image_id", *IMAGE_KEYS)
_PAIR_IMAGES, _PAIR_TEXTS = ("image", "image_id"), ("text", "text_id", "texts", "text_ids")
_KEY = "key"
_READERS = 16  # threads


class Captions(NamedTuple):
    """The captions of all rows of one or more sources.

    texts: one caption after the other, `[texts]`.
    rows: the row that each caption comes from, `[texts]`, out of `num_rows`.
    ids: by name of a column, the id of each caption's row, `[texts]`; "key" is the sample's key.
    """

    texts: list[str]
    rows: np.ndarray
    num_rows: int
    ids: Mapping[str, list[str]]
    sources: tuple[Mapping[str, Any], ...]


class _Row(NamedTuple):
    texts: tuple[str, ...]
    ids: dict[str, str]


def read_captions(names: Sequence[str], data_dir: str | os.PathLike, *, text_keys: tuple[str, ...]) -> Captions:
    """Read the captions of tables, shards or other sources that `pretrain` reads; no image is read.

    Raises as `open_source` does, and `ValueError` if no row has a caption. Rows without captions, or that cannot be
    read, are left out, which is logged.
    """
    source = open_sources(names, data_dir, text_keys=text_keys, image_keys=(*ID_KEYS, *text_keys))
    with concurrent.futures.ThreadPoolExecutor(_READERS) as threads:
        read = threads.map(lambda row: _read_row(source, row, text_keys), range(len(source)))
        rows = list(track(read, total=len(source), description="reading captions"))
    texts = [text for row in rows for text in row.texts]
    empty = sum(not row.texts for row in rows)
    if not texts:
        raise ValueError(f"no row of {', '.join(names)} has a caption. Name their column with align.text_keys.")
    if empty:
        logger.warning(f"{empty:,} of {len(rows):,} rows have no caption that can be read, and are left out")
    counts = np.array([len(row.texts) for row in rows])
    columns = [name for name in (_KEY, *ID_KEYS) if all(name in row.ids for row in rows if row.texts)]
    ids = {name: [row.ids[name] for row in rows for _ in row.texts] for name in columns}
    sources = tuple(
        {"source": name, "samples": len(part), "fingerprint": part.fingerprint}
        for name, part in zip(names, source.sources, strict=True)
    )
    return Captions(texts, np.repeat(np.arange(len(rows)), counts), len(rows), ids, sources)


def _read_row(source: ConcatenatedSource, row: int, text_keys: tuple[str, ...]) -> _Row:
    try:
        number, index = source.locate(row)
        part = source.sources[number]
        ids = {_KEY: part.key(index)}
        if not isinstance(part, CaptionTable):
            return _Row(part.texts(index), ids)
        fields = part.fields(index)
        texts = find_texts(fields, text_keys, key=ids[_KEY])
        return _Row(texts, ids | {name: _as_id(fields[name]) for name in ID_KEYS if fields.get(name) is not None})
    except BadRecord:
        return _Row((), {})


def pair_captions(image_ids: Sequence[str] | None, num_images: int, captions: Captions, *, pairing: str) -> Pairs:
    """Return the pairs of images and captions by id or by row; `pairing` is "auto", "id" or "row".

    The ids of captions are the column with the most ids of images, or else the file names of their images. Raises as
    `pair_ids` and `pair_rows` do.
    """
    if pairing != "row" and image_ids is not None:
        rows = find_rows(image_ids, what="images")
        candidates = dict(captions.ids)
        for name in IMAGE_KEYS:
            if name in captions.ids:
                candidates[f"file name in {name}"] = [pathlib.PurePath(each).name for each in captions.ids[name]]
        counts = {name: count_matches(rows, ids) for name, ids in candidates.items()}
        best = max(counts, key=counts.__getitem__)
        if counts[best] or pairing == "id" or set(candidates) != {_KEY} or num_images != captions.num_rows:
            how = {_KEY: "key of the sample"}.get(best, best if best.startswith("file") else f"column {best}")
            return pair_ids(image_ids, candidates[best], how=how)
    if pairing == "id":
        raise ValueError(
            "align.pairing is 'id', but the image features have no ids. Put an .ids.jsonl file next to them."
        )
    return pair_rows(num_images, captions.rows, num_rows=captions.num_rows)


def read_pairs(name: str, data_dir: str | os.PathLike) -> list[tuple[str, str]]:
    """Return the (image id, text id) pairs of a table with the columns `image` and `text`; a cell may list texts."""
    source = open_sources([name], data_dir, text_keys=_PAIR_TEXTS, image_keys=_PAIR_IMAGES)
    table = source.sources[0]
    if not isinstance(table, CaptionTable):
        raise ValueError(f"align.pairs {name} is not a table. Use a .csv, .tsv or .jsonl file with image and text ids.")
    pairs = []
    for row in range(len(table)):
        fields = table.fields(row)
        image, texts = (
            next((fields[key] for key in keys if fields.get(key) is not None), None)
            for keys in (_PAIR_IMAGES, _PAIR_TEXTS)
        )
        if image is None or texts is None:
            raise ValueError(f"{table.key(row)} lacks the id of an image or of a text")
        pairs += [(_as_id(image), _as_id(text)) for text in (texts if isinstance(texts, list) else [texts])]
    return pairs


def _as_id(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

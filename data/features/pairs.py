"""Pairs of images and texts: by row, by id, or by a table of both ids."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from data.pipeline.sampler import generator

logger = logging.getLogger(__name__)

_CAPTIONS = 1  # tells the draws of captions from other draws of an epoch
_WRONG = 2  # tells the draw of wrong texts from the draws of epochs
_SHOWN = 40  # characters of an id in messages


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """The samples of a run: images that have at least one text.

    image_rows: the row of each sample's image, `[samples]`.
    text_rows: the rows of the texts of all samples, one sample after the other, `[texts]`.
    starts: where the texts of a sample start in `text_rows`, `[samples + 1]`.
    """

    image_rows: np.ndarray
    text_rows: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.image_rows)

    def draw_texts(self, samples: np.ndarray, epochs: np.ndarray, *, seed: int) -> np.ndarray:
        """Return the row of a text of each sample `[batch]`: one is drawn per sample and epoch."""
        firsts = self.starts[samples]
        if len(self.text_rows) == len(self):
            return self.text_rows[firsts]
        offsets = np.empty(len(samples), np.int64)
        for epoch in np.unique(epochs):
            own = epochs == epoch
            offsets[own] = self._offsets(seed, int(epoch))[samples[own]]
        return self.text_rows[firsts + offsets]

    @functools.lru_cache(maxsize=2)  # noqa: B019 - as many as a batch usually spans; pairs live as long as their run
    def _offsets(self, seed: int, epoch: int) -> np.ndarray:
        counts = np.diff(self.starts)
        drawn = (generator(seed, epoch, _CAPTIONS).random(len(counts)) * counts).astype(np.int64)
        return np.minimum(drawn, counts - 1)


def group_texts(num_images: int, image_of_text: np.ndarray) -> Pairs:
    """Return the pairs for the image row of each text `[texts]`, −1 for a text without image."""
    kept = np.flatnonzero(image_of_text >= 0)
    order = kept[np.argsort(image_of_text[kept], kind="stable")]
    counts = np.bincount(image_of_text[kept], minlength=num_images)
    image_rows = np.flatnonzero(counts)
    return Pairs(image_rows, order, np.concatenate([[0], np.cumsum(counts[image_rows])]))


def swap_texts(pairs: Pairs, share: float, *, seed: int) -> Pairs:
    """Return the pairs with a share of the texts replaced by texts of other images, drawn once with a seed.

    This imitates the captions of the web, to measure how an objective copes with them. It is logged as a warning.
    """
    if not share:
        return pairs
    if len(pairs) < 2:
        raise ValueError(f"wrong texts need at least two images with texts, but there are {len(pairs)}")
    owners = np.repeat(np.arange(len(pairs)), np.diff(pairs.starts))
    random = generator(seed, _WRONG)
    wrong = random.permutation(len(owners))[: round(share * len(owners))]
    other_owners = (owners[wrong] + random.integers(1, len(pairs), size=len(wrong))) % len(pairs)
    places = pairs.starts[other_owners] + (random.random(len(wrong)) * np.diff(pairs.starts)[other_owners]).astype(int)
    text_rows = pairs.text_rows.copy()
    text_rows[wrong] = pairs.text_rows[places]
    logger.warning(
        f"{len(wrong):,} of {len(owners):,} texts are replaced by texts of other images, as wrong_texts={share:g} asks"
    )
    return dataclasses.replace(pairs, text_rows=text_rows)


def find_rows(ids: Sequence[str], *, what: str) -> dict[str, int]:
    """Return the row of each id; raise `ValueError` for an id that occurs twice."""
    rows = {each: row for row, each in enumerate(ids)}
    if len(rows) < len(ids):
        twice = next(each for each, count in Counter(ids).items() if count > 1)
        raise ValueError(f"the id {_short(twice)} occurs more than once among the {what}. Make the ids unique.")
    return rows


def pair_rows(num_images: int, row_of_text: np.ndarray, *, num_rows: int) -> Pairs:
    """Return pairs of equal row numbers; raise `ValueError` for another number of rows."""
    if num_images != num_rows:
        raise ValueError(
            f"there are {num_images:,} images but {num_rows:,} rows of texts, which cannot be paired by row. Use ids "
            "(the `.ids.jsonl` files of `embed`), or features of the same rows."
        )
    pairs = group_texts(num_images, row_of_text)
    log_pairs(pairs, how="row")
    return pairs


def pair_ids(image_ids: Sequence[str], text_ids: Sequence[str], *, how: str = "id") -> Pairs:
    """Return pairs of equal ids; texts with the same id are several texts of one image.

    What has no counterpart is left out, which is logged. Raises `ValueError` if no id has one, or if the id of an image
    is not unique.
    """
    rows = find_rows(image_ids, what="images")
    image_of_text = np.array([rows.get(each, -1) for each in text_ids], np.int64)
    pairs = group_texts(len(image_ids), image_of_text)
    if not len(pairs):
        raise ValueError(
            f"images and texts have no id in common: the first are {_short(image_ids[0])} and {_short(text_ids[0])}. "
            "Use the same ids, name a table of both with align.pairs, or set align.pairing to 'row'."
        )
    log_pairs(pairs, how=how, image_ids=image_ids, text_ids=text_ids)
    return pairs


def pair_table(
    image_ids: Sequence[str], text_ids: Sequence[str], table: Sequence[tuple[str, str]], *, name: str
) -> Pairs:
    """Return the pairs of a table of image and text ids; an id of the table that is missing raises `ValueError`."""
    images, texts = find_rows(image_ids, what="images"), find_rows(text_ids, what="texts")
    for kind, rows, column in (("image", images, 0), ("text", texts, 1)):
        missing = [row[column] for row in table if row[column] not in rows]
        if missing:
            raise ValueError(
                f"{name} names {len(missing):,} {kind} ids without features, such as {_short(missing[0])}. Remove "
                "their rows, or compute the features."
            )
    image_of_pair = np.array([images[image] for image, _ in table], np.int64)
    text_of_pair = np.array([texts[text] for _, text in table], np.int64)
    pairs = group_texts(len(image_ids), image_of_pair)
    pairs = dataclasses.replace(pairs, text_rows=text_of_pair[pairs.text_rows])
    log_pairs(pairs, how=f"the table {name}", image_ids=image_ids, text_ids=text_ids)
    return pairs


def count_matches(image_ids: Mapping[str, int], text_ids: Sequence[str]) -> int:
    """Return how many texts have the id of an image."""
    return sum(each in image_ids for each in text_ids)


def log_pairs(pairs: Pairs, *, how: str, image_ids: Sequence[str] = (), text_ids: Sequence[str] = ()) -> None:
    """Log how images and texts were paired, and what was left out."""
    counts = np.diff(pairs.starts)
    several = f", {counts.min()} to {counts.max()} texts per image, one drawn per epoch" if counts.max() > 1 else ""
    logger.info(f"paired by {how}: {len(pairs):,} images with {len(pairs.text_rows):,} texts{several}")
    for what, ids, used in (("images", image_ids, pairs.image_rows), ("texts", text_ids, np.unique(pairs.text_rows))):
        if len(used) < len(ids):
            lost = np.setdiff1d(np.arange(len(ids)), used)
            logger.warning(f"{len(lost):,} {what} have no counterpart and are left out, such as {_short(ids[lost[0]])}")


def _short(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else name[: _SHOWN - 1] + "…")

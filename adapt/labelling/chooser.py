"""Choose the pictures that a person labels next."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Reason = Literal["representative", "uncertain", "far", "random"]
POOL_SIZE = 2000
_NEIGHBOURS = 20  # the kernel's width is a typical squared distance to the 20th nearest picture
_RADIUS_ROWS = 256  # pictures of the pool from which the width is estimated
_LEAST_WIDTH = 1e-4  # of the kernel, for pools of copies
_DUPLICATE = 1 - 1e-5  # cosine above which two pictures count as the same
_FAR, _UNCERTAIN = 0.1, 0.25  # shares of the pool for which a reason is given
_GROWTH = 1.05  # pictures per picture at the last look at which the pool takes new ones
_ROWS = 32  # of a block, so that it fits into the caches of a processor


class Suggestions(NamedTuple):
    """The pictures to label next, best first: their rows `[k]` (distinct), and for each the reason.

    "uncertain": its margin between the two best classes is among the smallest quarter of the pool.
    "far": its similarity to the nearest labelled picture is among the smallest tenth of the pool.
    "representative": neither; it stands for many pictures that resemble no labelled one.
    "random": the next picture of a random order, whatever it shows, until it is labelled or closed.
    """

    rows: np.ndarray
    reasons: tuple[Reason, ...]


class Chooser:
    """Suggests pictures that stand for many others, the more so where the classifier is uncertain.

    The suggestions maximise greedily what labelled pictures cover of a random pool of all pictures:

        gain(x) = Σ_r w_r max(0, k(x, r) − cover(r)),   cover(r) = max over labelled or suggested l of k(l, r),

    with k(x, r) = exp(−‖x − r‖² / width). `width` is the median squared distance of a picture of the pool to its 20th
    nearest. This is the uncertainty coverage of arXiv 2412.20644, whose form without w is in arXiv 2407.12212. Our
    weights need no temperature: w_r = (1 − λ) + λ u_r / mean(u), where u_r = exp(−margin_r / mean margin), and
    λ = 1 − 1 / (labels per class known so far), from 0. The first picture of each class is thus chosen by coverage
    alone. An outlier covers little, and a neighbour or copy of a labelled picture covers nothing new.

    seed: of the random order of the pictures and of the pool, which is the beginning of this order. They depend on
        nothing else, in particular not on how `add` is split.
    random_every: one of this number of suggestions is the next picture of the random order; 0 for none. Predictions for
        these pictures, made before they are labelled, estimate the accuracy. The accuracy on all labelled pictures
        does not, even if each is left out: suggested pictures are harder, and few labelled ones are like them.
    pool_size: pictures of the pool; memory is 8 · pool_size² bytes (32 MB) and the pool's features.

    A class with fewer than about one in `pool_size` pictures may be missing from the pool. When half of the pool is
    labelled or closed, it is drawn again from the open pictures.
    """

    def __init__(self, *, seed: int = 0, random_every: int = 0, pool_size: int = POOL_SIZE):
        if pool_size < 1:
            raise ValueError(f"pool_size is {pool_size}; it must be at least 1.")
        if random_every < 0:
            raise ValueError(f"random_every is {random_every}; it must be 0 (never) or positive.")
        self._rng = np.random.default_rng(seed)
        self._size, self._random_every = pool_size, random_every
        self._priorities = np.empty(0)  # of all pictures: their random order, ascending
        self._dim: int | None = None
        self._looked_at = 0  # pictures that had their chance to enter the pool
        self._pool = np.empty(0, np.int64)  # rows of the pictures in the pool
        self._features = np.empty((0, 0), np.float32)  # of the pool
        self._cosines = np.empty((0, 0), np.float32)  # [pool, pool]
        self._kernel: np.ndarray | None = None  # [pool, pool], None after a change of the pool
        self._width = 1.0

    @property
    def pool(self) -> np.ndarray:
        """The rows of the pictures in the pool, ascending: the only ones whose logits `choose` reads."""
        return self._pool

    def add(self, features: np.ndarray) -> None:
        """Add pictures, unit features `[rows, dim]`; they get the next row numbers.

        They may enter the pool at the next `update_pool`. Raises `ValueError` for features of another dimension.
        """
        features = np.asarray(features, np.float32)
        if features.ndim != 2 or self._dim not in (None, features.shape[1]):
            raise ValueError(f"features have shape {list(features.shape)}; they must be [rows, {self._dim or 'dim'}].")
        self._dim = features.shape[1]
        self._priorities = np.concatenate([self._priorities, self._rng.random(len(features))])

    def update_pool(self, features: np.ndarray) -> None:
        """Let pictures enter the pool that were added since the last time; `features` `[n, dim]` are those of all.

        `choose` does so when there are 5 % more pictures: a change of the pool costs about 0.1 s. Call it after the
        last picture was added, so that the pool does not depend on when suggestions were asked for.
        """
        rows = np.arange(self._looked_at, len(self._priorities))
        self._looked_at = len(self._priorities)
        self._set_pool(self._first(np.concatenate([self._pool, rows])), features)

    def choose(
        self,
        count: int,
        *,
        features: np.ndarray,
        labelled: np.ndarray,
        nearest: np.ndarray,
        logits: np.ndarray | None,
        open_rows: np.ndarray,
    ) -> Suggestions:
        """Return at most `count` pictures to label next; fewer if there are fewer open ones that are not copies.

        features: all pictures that were added, `[n, dim]`.
        labelled: rows of the labelled pictures, `[m]`, and of those put aside: their like is not suggested soon.
        nearest: cosine of each picture to the nearest of these, `[n]`; −∞ without any.
        logits: of the current classifier, `[n, classes]` for the classes labelled so far; None before there are two.
        open_rows: mask `[n]` of the pictures that may be suggested; labelled ones never are.

        Costs about pool_size² operations, whatever n is, and pool_size² · dim products when the pool is drawn again.
        Raises `ValueError` for arrays of other lengths.
        """
        labelled = np.asarray(labelled, np.int64)
        free = self._check(features, labelled, nearest, logits, open_rows)
        free[labelled] = False
        if len(features) > _GROWTH * self._looked_at:
            self.update_pool(features)
        total = int(np.count_nonzero(free))
        if np.count_nonzero(free[self._pool]) < min(total, max(count, self._size // 2)):
            self._set_pool(self._first(np.flatnonzero(free)), features)
        if not total or count < 1:
            return Suggestions(np.empty(0, np.int64), ())
        kernel = self._refresh()
        covered = _kernel_of(nearest[self._pool], self._width)
        is_free = free[self._pool]
        margin = None if logits is None or logits.shape[1] < 2 else _margins(logits[self._pool])
        per_class = 1.0 if margin is None else len(labelled) / logits.shape[1]
        weights = np.where(is_free, _weights(margin, is_free, per_class=per_class), 0.0).astype(np.float32)
        drawn, positions = self._draw(free, count, labels=len(labelled))
        cosines = np.asarray(features[drawn], np.float32) @ self._features.T
        cover = np.maximum(covered, _kernel_of(cosines, self._width).max(axis=0, initial=0))
        candidates = np.flatnonzero(is_free & (cosines.max(axis=0, initial=-1) <= _DUPLICATE))
        slots = _greedy(kernel, self._cosines, cover, weights, candidates, count - len(drawn))
        rows, reasons = self._pool[slots].tolist(), _reasons(covered, slots, margin, is_free)
        for position, row in zip(positions, drawn.tolist(), strict=True):
            rows.insert(position, row)
            reasons.insert(position, "random")
        return Suggestions(np.array(rows, np.int64), tuple(reasons))

    def _draw(self, free: np.ndarray, count: int, *, labels: int) -> tuple[np.ndarray, list[int]]:
        """Return the next rows of the random order, and their positions among the suggestions."""
        every = self._random_every
        positions = [place for place in range(count) if every and (labels + place) % every == every - 1]
        rows = np.flatnonzero(free)
        number = min(len(positions), len(rows))
        if number < len(rows):
            rows = rows[np.argpartition(self._priorities[rows], number)[:number]]
        return rows[np.argsort(self._priorities[rows])], positions[:number]

    def _check(
        self,
        features: np.ndarray,
        labelled: np.ndarray,
        nearest: np.ndarray,
        logits: np.ndarray | None,
        open_rows: np.ndarray,
    ) -> np.ndarray:
        """Return a copy of the mask of open rows; raise `ValueError` for arrays that do not match the pictures."""
        total = len(self._priorities)
        given = {"features": features, "open_rows": open_rows, "nearest": nearest, "logits": logits}
        for name, array in given.items():
            if array is not None and len(array) != total:
                raise ValueError(f"{name} has {len(array)} rows, but {total} pictures were added. Pass one row each.")
        wrong = labelled[(labelled < 0) | (labelled >= total)]
        if len(wrong):
            raise ValueError(f"labelled has row {wrong[0]}; there are {total} pictures, from row 0.")
        return np.array(open_rows, bool)

    def _first(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows with the smallest priorities, ascending, at most the size of the pool."""
        if len(rows) > self._size:
            rows = rows[np.argpartition(self._priorities[rows], self._size)[: self._size]]
        return np.sort(rows)

    def _set_pool(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Make `rows` the pool and compute the cosines of its new pictures."""
        if np.array_equal(rows, self._pool):
            return
        kept = np.isin(rows, self._pool, assume_unique=True)
        old = np.searchsorted(self._pool, rows[kept])
        pool = np.asarray(features[rows], np.float32)
        cosines = np.empty((len(rows), len(rows)), np.float32)
        cosines[np.ix_(kept, kept)] = self._cosines[np.ix_(old, old)]
        products = pool[~kept] @ pool.T
        cosines[~kept], cosines[:, ~kept] = products, products.T
        self._pool, self._features, self._cosines, self._kernel = rows, pool, cosines, None

    def _refresh(self) -> np.ndarray:
        """Return the kernel of the pool, computed again if the pool has changed."""
        if self._kernel is None:
            neighbours = min(_NEIGHBOURS, len(self._pool) // 2)
            some = self._cosines[:_RADIUS_ROWS]
            nearest = np.partition(some, some.shape[1] - 1 - neighbours, axis=1)[:, some.shape[1] - 1 - neighbours]
            self._width = max(float(np.median(2 - 2 * nearest)), _LEAST_WIDTH)
            self._kernel = _kernel_of(self._cosines, self._width)
        return self._kernel


def _reasons(cover: np.ndarray, slots: np.ndarray, margin: np.ndarray | None, is_free: np.ndarray) -> list[Reason]:
    """Return why the pictures of the pool in `slots` are suggested, given what labelled ones cover, `[pool]`."""
    if margin is None:
        return ["representative"] * len(slots)
    far = np.quantile(cover[is_free], _FAR)
    uncertain = np.quantile(margin[is_free], _UNCERTAIN)
    return [
        "far" if cover[slot] <= far else "uncertain" if margin[slot] <= uncertain else "representative"
        for slot in slots
    ]


def _kernel_of(cosines: np.ndarray, width: float) -> np.ndarray:
    """Return exp(−‖x − r‖² / width) for unit vectors with these cosines."""
    kernel = cosines - np.float32(1)
    np.minimum(kernel, 0, out=kernel)
    kernel *= np.float32(2 / width)
    return np.exp(kernel, out=kernel)


def _margins(logits: np.ndarray) -> np.ndarray:
    """Return the difference of the two largest logits of each row, `[rows]`."""
    best = np.partition(logits, -2, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


def _weights(margin: np.ndarray | None, is_free: np.ndarray, *, per_class: float) -> np.ndarray | float:
    """Return the weights `[pool]` of the pictures to be covered, see `Chooser`."""
    share = 1 - 1 / max(per_class, 1.0)
    if margin is None or share == 0 or not (mean := float(margin[is_free].mean())) > 0:
        return 1.0
    uncertainty = np.exp(-margin / mean)
    return 1 - share + share * uncertainty / uncertainty[is_free].mean()


def _greedy(
    kernel: np.ndarray, cosines: np.ndarray, cover: np.ndarray, weights: np.ndarray, candidates: np.ndarray, count: int
) -> np.ndarray:
    """Return at most `count` of `candidates`, each with the largest gain after the ones before it.

    Gains only fall as more is covered (they are submodular), so a gain computed earlier is an upper bound, and only the
    candidates at the top are computed again (Minoux's lazy greedy). Copies of a chosen candidate are left out.
    """
    cover = cover.copy()
    block = np.empty((_ROWS, len(kernel)), np.float32)

    def gains(slots: np.ndarray) -> np.ndarray:
        uncovered = np.take(kernel, slots, axis=0, out=block[: len(slots)], mode="clip")
        uncovered -= cover
        return np.maximum(uncovered, 0, out=uncovered) @ weights

    bounds = np.full(len(kernel), -np.inf, np.float32)
    for start in range(0, len(candidates), _ROWS):
        bounds[candidates[start : start + _ROWS]] = gains(candidates[start : start + _ROWS])
    chosen: list[int] = []
    while len(chosen) < count and (bounds > -np.inf).any():
        slot = -1
        while slot < 0 or bounds[slot] < bounds.max():
            top = np.sort(np.argpartition(-bounds, min(_ROWS, len(bounds)) - 1)[:_ROWS])
            top = top[bounds[top] > -np.inf]
            bounds[top] = gains(top)
            slot = int(top[bounds[top].argmax()])
        chosen.append(slot)
        np.maximum(cover, kernel[slot], out=cover)
        bounds[cosines[slot] > _DUPLICATE] = -np.inf
        bounds[slot] = -np.inf
    return np.array(chosen, np.int64)

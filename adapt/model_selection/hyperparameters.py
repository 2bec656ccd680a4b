"""Settings chosen on the support set alone: each example is classified by a fit without it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.base import Adapter, Terms, as_key, check_not_stacked
from adapt.adapters.pytrees import settings_of
from adapt.adapters.registry import create, find
from adapt.adapters.support import FOLDS, Fold, Support, make_support, split_folds
from foundation.suggestions import unknown_name

LEAVE_ONE_OUT = "leave-one-out on the support"
CROSS_VALIDATION = f"{FOLDS}-fold cross-validation on the support"
DEFAULTS, FIRST = "defaults", "the first of the grid"
LEAVE_OUT = ("one", "fold")


class Selection(NamedTuple):
    """The result of `select`: the chosen settings as `best_params`, and all that were tried as the table `trials`.

    adapter: the adapter with the chosen settings.
    settings: all settings that were tried.
    accuracy: their accuracy on left-out support examples, `[settings]`; NaN if nothing could be left out.
    selected_by: `LEAVE_ONE_OUT` or `CROSS_VALIDATION`; if nothing could be left out, `DEFAULTS`, or `FIRST` for a grid
        that was passed.
    """

    adapter: Adapter
    settings: list[dict[str, Any]]
    accuracy: np.ndarray
    selected_by: str

    @property
    def best_params(self) -> dict[str, Any]:
        """The chosen values of the searched settings; fixed ones are not included."""
        return self.settings[self._best]

    @property
    def best_score(self) -> float:
        """The accuracy of the chosen settings on left-out support examples; NaN if nothing could be left out."""
        return self.trials[self._best]["score"]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """One row per setting that was tried: its values, and its accuracy as `score`; `pandas.DataFrame` takes it."""
        scores = (round(float(score), 6) for score in self.accuracy)
        return [row | {"score": score} for row, score in zip(self.settings, scores, strict=True)]

    @property
    def _best(self) -> int:
        return 0 if np.isnan(self.accuracy).all() else int(np.argmax(self.accuracy))

    def __repr__(self) -> str:
        return (
            f"Selection({self.adapter!r}, best_score={self.best_score:.4g}, {len(self.settings)} tried, "
            f"selected_by={self.selected_by!r})"
        )


class GridChoice(NamedTuple):
    """The position of the `chosen` setting in a grid, and the `accuracy` of all settings, `[settings]`."""

    chosen: jax.Array
    accuracy: jax.Array


class Grid:
    """The settings of a method among which to choose; the first is taken if the support set cannot decide.

    grid: the values of each setting (default: the method's own grid without the `fixed` settings).
    leave_out: "one" support example at a time or a "fold" (default: see `select`).
    fixed: settings that are not searched.
    """

    def __init__(
        self, name: str, grid: Mapping[str, Sequence[Any]] | None = None, *, leave_out: str | None = None, **fixed: Any
    ):
        self.method = find(name)
        if leave_out not in (None, *LEAVE_OUT):
            raise ValueError(unknown_name("leave_out", leave_out, LEAVE_OUT))
        self.selected_by_default = DEFAULTS if grid is None else FIRST
        if grid is None:
            grid = {key: values for key, values in create(name, **fixed).grid.items() if key not in fixed}
        _check_grid(name, grid, fixed)
        combinations = itertools.product(*grid.values())
        self.settings = [dict(zip(grid, values, strict=True)) for values in combinations]
        self.adapters = [create(name, **fixed, **values) for values in self.settings]
        self.leave_out = _leave_out(name, self.adapters, leave_out)
        self.selected_by = LEAVE_ONE_OUT if self.leave_out == "one" else CROSS_VALIDATION
        self._programs = _programs(self.adapters)

    def accuracy(self, support: Support, *, key: jax.Array) -> jax.Array:
        """Return the accuracy of each setting on left-out support examples, `[settings]`; traceable by JAX."""
        hits = [program.hits(support, leave_out=self.leave_out, key=key).reshape(-1) for program in self._programs]
        order = np.argsort(np.concatenate([program.rows.reshape(-1) for program in self._programs]))
        return jnp.concatenate(hits)[order] / jnp.maximum(jnp.sum(_present(support.labels)), 1)

    def choose(self, support: Support, *, key: jax.Array) -> GridChoice:
        """Return the setting with the highest accuracy, the first of equal ones; traceable by JAX.

        If no class has two examples, this is the first setting, and the accuracies are NaN.
        """
        can_leave_out = jnp.max(support.counts) > 1
        if len(self.settings) == 1:
            accuracy = jnp.full(1, jnp.nan)
        else:
            accuracy = jnp.where(can_leave_out, self.accuracy(support, key=key), jnp.nan)
        return GridChoice(jnp.where(can_leave_out, jnp.argmax(accuracy), 0), accuracy)

    def apply(self, index: jax.Array, function: Callable[[Adapter], Any]) -> Any:
        """Return `function(adapter)` for the setting at `index`, which may be a traced value."""
        positions = np.zeros((len(self.settings), 3), np.int32)
        for number, program in enumerate(self._programs):
            for outer, inner in np.ndindex(program.rows.shape):
                positions[program.rows[outer, inner]] = number, outer, inner
        number, outer, inner = jnp.asarray(positions)[index]
        branches = [
            lambda outer, inner, program=program: function(program.adapter(outer, inner)) for program in self._programs
        ]
        return jax.lax.switch(number, branches, outer, inner)


def select(
    name: str,
    support_features: Any,
    support_labels: Any,
    *,
    class_text_features: Any = None,
    num_classes: int | None = None,
    logit_scale: float = 100.0,
    grid: Mapping[str, Sequence[Any]] | None = None,
    leave_out: str | None = None,
    key: jax.Array | int | None = None,
    **fixed: Any,
) -> Selection:
    """Return the method `name` with the settings that classify left-out support examples best.

    grid: the values to try per setting (default: the method's own grid). Of equally accurate combinations, the first
        is chosen.
    leave_out: "one" leaves out one example at a time, in closed form; "fold" a quarter of each class, at least one
        example. The default is "one" for zero_shot, prototypes, knn, tip_adapter and tip_x, and "fold" for all other
        methods. gda and proker have a closed form, but at few shots it favours the classes that lose no example, and
        so settings with little effect.
    fixed: settings that are not searched.

    The other arguments are those of `Adapter.fit`. If no class has two examples, nothing can be left out and the first
    combination is chosen, which in the method's own grid are the defaults. Raises `ValueError` as `create` and
    `Adapter.fit` do, and for an invalid grid.
    """
    support = make_support(
        support_features,
        support_labels,
        class_text_features=class_text_features,
        num_classes=num_classes,
        logit_scale=logit_scale,
    )
    options = Grid(name, grid, leave_out=leave_out, **fixed)
    options.adapters[0].check_support(support)
    check_not_stacked(options.adapters[0])
    if not jnp.max(support.counts) > 1:
        accuracy = np.full(len(options.settings), np.nan)
        return Selection(options.adapters[0], options.settings, accuracy, options.selected_by_default)
    accuracy = np.asarray(_grid_accuracy(_StaticGrid(options), support, as_key(key)))
    return Selection(options.adapters[int(np.argmax(accuracy))], options.settings, accuracy, options.selected_by)


class _StaticGrid:
    """A grid as a static argument of a compiled function: grids of equal settings share the compiled program."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self._key = grid.method, grid.leave_out, tuple(repr(settings_of(adapter)) for adapter in grid.adapters)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StaticGrid) and self._key == other._key


@functools.partial(jax.jit, static_argnums=0)
def _grid_accuracy(grid: _StaticGrid, support: Support, key: jax.Array) -> jax.Array:
    return grid.grid.accuracy(support, key=key)


class _Program(NamedTuple):
    """Settings that share one compiled program.

    The terms of the logits are computed once per value of `outer`, and combined with every value of `inner`.

    structure: the pytree structure of the adapters.
    leaves: their numeric settings, `[outer]` each; scalars where all are equal, so that the compiler computes once what
        depends on no other.
    weights: the values of `Adapter.term_weights`, `[inner, weights]`.
    rows: the positions of the settings in the grid, `[outer, inner]`.
    """

    structure: Any
    leaves: tuple[jax.Array, ...]
    weights: jax.Array
    rows: np.ndarray

    def adapter(self, outer: jax.Array, inner: jax.Array) -> Adapter:
        """Return the adapter at a position of `rows`."""
        leaves = [leaf[outer] if leaf.ndim else leaf for leaf in self.leaves]
        adapter = jax.tree.unflatten(self.structure, leaves)
        return adapter.with_term_weights(self.weights[inner])

    def hits(self, support: Support, *, leave_out: str, key: jax.Array) -> jax.Array:
        """Return how many left-out support examples each setting classifies correctly, `[outer, inner]`."""
        adapter = self.adapter(0, 0)
        if leave_out == "one":
            return self._hits(lambda adapter: adapter.leave_one_out(support, key=key), support.labels)
        if type(adapter).leave_fold_out is not Adapter.leave_fold_out or adapter.transductive:
            return self._hits(lambda adapter: adapter.leave_fold_out(support, key=key), support.labels)

        def fold_hits(fold: Fold) -> jax.Array:
            rest, left_out = support.take(fold.others), support.take(fold.rows)
            return self._hits(
                lambda adapter: adapter.logit_terms(adapter.fit_state(rest, key=key), rest, left_out.features),
                left_out.labels,
            )

        # The settings are the inner loop: the compiler moves out of it what does not depend on them.
        return jnp.sum(jax.lax.map(fold_hits, split_folds(support)), axis=0)

    def _hits(self, terms_of: Callable[[Adapter], Terms], labels: jax.Array) -> jax.Array:
        """Return how many rows each setting classifies correctly by its terms, `[outer, inner]`."""

        def outer_hits(outer: jax.Array) -> jax.Array:
            terms = terms_of(self.adapter(outer, 0))

            def inner_hits(inner: jax.Array) -> jax.Array:
                return _hits(self.adapter(outer, inner).logits(terms), labels)

            return jax.lax.map(inner_hits, jnp.arange(self.rows.shape[1]))

        return jax.lax.map(outer_hits, jnp.arange(self.rows.shape[0]))


def _programs(adapters: Sequence[Adapter]) -> list[_Program]:
    """Group adapters by what must be compiled separately, and within a group by all settings but the term weights."""
    groups: dict[Any, dict[Any, list[int]]] = {}
    for row, adapter in enumerate(adapters):
        without_weights = adapter.with_term_weights([0.0] * len(adapter.term_weights))
        leaves, structure = jax.tree.flatten(without_weights)
        groups.setdefault(structure, {}).setdefault(tuple(map(float, leaves)), []).append(row)
    programs = []
    for structure, outer in groups.items():
        rows = np.array(list(outer.values()))
        weights = [[float(settings_of(adapters[row])[name]) for name in adapters[row].term_weights] for row in rows[0]]
        columns = (values if len(set(values)) > 1 else values[0] for values in zip(*outer, strict=True))
        leaves = tuple(jnp.array(column, jnp.float32) for column in columns)
        programs.append(_Program(structure, leaves, jnp.array(weights, jnp.float32).reshape(rows.shape[1], -1), rows))
    return programs


def _hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the number of rows whose label has the largest logit, the first of equal ones; padding is ignored."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1, mode="clip")
    classes, column = jnp.arange(logits.shape[1]), labels[:, None]
    better = (logits > own) | ((logits == own) & (classes < column))
    beaten = jnp.any(better & (classes != column), axis=1)  # a compiler may compute `own` with another rounding
    return jnp.sum(jnp.where(beaten, 0.0, _present(labels)))


def _present(labels: jax.Array) -> jax.Array:
    """Return 1 for each row that is not padding and 0 for padding, `[n]`; sums of floats compile faster."""
    return jnp.where(labels >= 0, 1.0, 0.0)


def _check_grid(name: str, grid: Any, fixed: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a grid that is not a mapping from settings that are not fixed to lists of values."""
    if not isinstance(grid, Mapping):
        raise ValueError(f"the grid {grid!r} of {name} is not a mapping from settings to lists of values")
    for key, values in grid.items():
        if key in fixed:
            raise ValueError(f"{key} is both fixed and in the grid of {name}. Remove one of the two.")
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
            raise ValueError(f"the values {values!r} of {key} in the grid of {name} are not a list")
        if not len(values):
            raise ValueError(f"the grid of {name} has no values for {key}")


def _leave_out(name: str, adapters: Sequence[Adapter], leave_out: str | None) -> str:
    """Return what is left out at a time, by default what suits the method; raise `ValueError` for "one" without it."""
    closed_form = all(adapter.closed_form for adapter in adapters)
    if leave_out == "one" and not closed_form:
        raise ValueError(f"{name} has no closed form for leaving out one example. Use leave_out='fold'.")
    if leave_out is not None:
        return leave_out
    by_folds = any(adapter.select_by_folds for adapter in adapters)
    return "one" if closed_form and not by_folds else "fold"

"""Settings from the support alone: leave examples out, classify them by the others."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adapt.adapters.base import Adapter, as_key, check_single, settings_of
from adapt.adapters.registry import create, find
from adapt.adapters.support import FOLDS, Support, make_support

LEAVE_ONE_OUT = "leave-one-out on the support"
CROSS_VALIDATION = f"{FOLDS}-fold cross-validation on the support"
DEFAULTS, FIRST = "defaults", "the first of the grid"


class Selection(NamedTuple):
    """The chosen adapter, every setting that was tried with its accuracy on what was left out, and how it was chosen.

    `selected_by` is `LEAVE_ONE_OUT`, `CROSS_VALIDATION`, or where the support cannot tell `DEFAULTS`, for a grid that
    was given `FIRST`; then the accuracies are NaN.
    """

    adapter: Adapter
    settings: list[dict[str, Any]]
    accuracy: np.ndarray
    selected_by: str


class _Program(NamedTuple):
    """Settings that one compiled program serves. `leaves` are the adapter's numbers, `[outer]` each; `weights`
    `[inner, len(Adapter.weights)]` and `rows` `[outer, inner]`, the numbers of the settings."""

    structure: Any
    leaves: tuple[jax.Array, ...]
    weights: jax.Array
    rows: np.ndarray

    def adapter(self, outer: jax.Array, inner: jax.Array) -> Adapter:
        adapter = jax.tree.unflatten(self.structure, [leaf[outer] for leaf in self.leaves])
        return dataclasses.replace(adapter, **dict(zip(adapter.weights, self.weights[inner], strict=True)))


class Grid:
    """Settings of a method to choose from, the first being the one that is taken where nothing tells.

    `leave_out` says what is left out of the support to be classified: "one" row at a time, "fold"s, or what the method
    does best with if None.
    """

    def __init__(
        self, name: str, grid: Mapping[str, Sequence[Any]] | None = None, leave_out: str | None = None, **fixed: Any
    ):
        self.method = find(name)
        if leave_out not in (None, "one", "fold"):
            raise ValueError(f"unknown leave_out {leave_out!r}; known: one, fold")
        self.otherwise = DEFAULTS if grid is None else FIRST
        if grid is None:
            grid = {key: values for key, values in create(name, **fixed).grid.items() if key not in fixed}
        if not isinstance(grid, Mapping):
            raise ValueError(f"the grid {grid!r} of {name} does not map settings to their values")
        for key, values in grid.items():
            if key in fixed:
                raise ValueError(f"{key} is both fixed and in the grid of {name}")
            if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
                raise ValueError(f"the values {values!r} of {key} in the grid of {name} are no list")
            if not len(values):
                raise ValueError(f"the grid of {name} has no value for {key}")
        combinations = itertools.product(*grid.values())
        self.settings = [dict(zip(grid, values, strict=True)) for values in combinations]
        self.adapters = [create(name, **fixed, **values) for values in self.settings]
        closed_form = all(adapter.closed_form for adapter in self.adapters)
        if leave_out == "one" and not closed_form:
            raise ValueError(f"{name} has no closed form for leaving out one example; leave out folds")
        if leave_out is None:
            by_folds = any(adapter.select_by_folds for adapter in self.adapters)
            leave_out = "one" if closed_form and not by_folds else "fold"
        self.leave_out = leave_out
        self.selected_by = LEAVE_ONE_OUT if leave_out == "one" else CROSS_VALIDATION
        self._programs = _programs(self.adapters)

    def accuracy(self, support: Support, *, key: jax.Array) -> jax.Array:
        """Returns the accuracy `[settings]` on left-out rows; traceable."""
        accuracy = jnp.zeros(len(self.settings))
        for program in self._programs:

            def outer(number: jax.Array, program: _Program = program) -> jax.Array:
                adapter = program.adapter(number, 0)
                left_out = adapter.left_out if self.leave_out == "one" else adapter.left_out_by_folds
                terms = left_out(support, key=key)

                def inner(weight: jax.Array) -> jax.Array:
                    return _share_right(program.adapter(number, weight).logits(terms), support.labels)

                return jax.lax.map(inner, jnp.arange(program.rows.shape[1]))

            scores = jax.lax.map(outer, jnp.arange(program.rows.shape[0]))
            accuracy = accuracy.at[program.rows].set(scores)
        return accuracy

    def choose(self, support: Support, *, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the number of the setting to take, and the accuracies; traceable.

        Of equals the first is taken, and the first where no class has two examples; then the accuracies are NaN.
        """
        several = jnp.max(support.counts) > 1
        if len(self.settings) == 1:
            accuracy = jnp.full(1, jnp.nan)
        else:
            accuracy = jnp.where(several, self.accuracy(support, key=key), jnp.nan)
        return jnp.where(several, jnp.argmax(accuracy), 0), accuracy

    def apply(self, chosen: jax.Array, function: Callable[[Adapter], Any]) -> Any:
        """Returns `function(adapter)` of the setting with a number that need not be known before it is computed."""
        of = np.zeros((len(self.settings), 3), np.int32)
        for number, program in enumerate(self._programs):
            for outer, inner in np.ndindex(program.rows.shape):
                of[program.rows[outer, inner]] = number, outer, inner
        program, outer, inner = jnp.asarray(of)[chosen]
        branches = [
            lambda outer, inner, program=program: function(program.adapter(outer, inner)) for program in self._programs
        ]
        return jax.lax.switch(program, branches, outer, inner)


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
    """Returns the adapter `name` with the setting of `grid` that classifies left-out support examples best.

    `leave_out` "one" leaves out one example at a time, in closed form; "fold" an equal share of every class, a quarter
    or one example. None takes "one" for zero_shot, prototypes, knn, tip_adapter and tip_x, and "fold" elsewhere: for
    gda and proker as well, which at few shots favour classes that lack no example, and would choose to say too little.
    `grid` maps settings to values, the method's own if None; of equals the first combination is taken. `fixed` settings
    are not searched. Where no class has two examples nothing can be left out, and the first combination is taken, in a
    method's own grid that of the defaults. Raises `ValueError` as `create` and `Adapter.fit` do.
    """
    support = make_support(
        support_features,
        support_labels,
        class_text_features=class_text_features,
        num_classes=num_classes,
        logit_scale=logit_scale,
    )
    options = Grid(name, grid, leave_out, **fixed)
    options.adapters[0].check_support(support)
    check_single(options.adapters[0])
    several = bool(jnp.max(support.counts) > 1)
    accuracy = np.full(len(options.settings), np.nan)
    if several:
        accuracy = np.asarray(_grid_accuracy(_Hashed(options), support, as_key(key)))
    chosen = int(np.argmax(accuracy)) if several else 0
    return Selection(
        options.adapters[chosen], options.settings, accuracy, options.selected_by if several else options.otherwise
    )


class _Hashed:
    """A grid as a static argument: grids of the same settings share a compiled program."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self._key = grid.method, grid.leave_out, tuple(repr(settings_of(adapter)) for adapter in grid.adapters)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self._key == other._key


@functools.partial(jax.jit, static_argnums=0)
def _grid_accuracy(grid: _Hashed, support: Support, key: jax.Array) -> jax.Array:
    return grid.grid.accuracy(support, key=key)


def _share_right(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the share of the rows that are there whose label has the largest logit, of equals the first."""
    own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=1)
    classes, labels = jnp.arange(logits.shape[1]), labels[:, None]
    better = (logits > own) | ((logits == own) & (classes < labels))
    beaten = jnp.any(better & (classes != labels), axis=1)  # a compiler may compute `own` with another rounding
    labels = labels[:, 0]
    return jnp.sum(~beaten & (labels >= 0)) / jnp.maximum(jnp.sum(labels >= 0), 1)


def _programs(adapters: Sequence[Adapter]) -> list[_Program]:
    """Groups settings by what must be compiled apart, and in there by all but the weights of the terms."""
    found: dict[Any, dict[Any, list[int]]] = {}
    for row, adapter in enumerate(adapters):
        terms = dataclasses.replace(adapter, **dict.fromkeys(adapter.weights, 0.0))
        leaves, structure = jax.tree.flatten(terms)
        found.setdefault(structure, {}).setdefault(tuple(map(float, leaves)), []).append(row)
    programs = []
    for structure, outer in found.items():
        rows = np.array(list(outer.values()))
        weights = [[float(getattr(adapters[row], name)) for name in adapters[row].weights] for row in rows[0]]
        leaves = tuple(jnp.array(values, jnp.float32) for values in zip(*outer, strict=True))
        programs.append(_Program(structure, leaves, jnp.array(weights, jnp.float32).reshape(rows.shape[1], -1), rows))
    return programs

"""Settings from the support alone: leave one example out, classify it by the others."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adapt.adapter import Adapter, Support

_ROWS_AT_ONCE = 64  # bounds the memory of leave-one-out


class Selection(NamedTuple):
    """The chosen adapter, and the leave-one-out accuracy of every setting that was tried."""

    adapter: Adapter
    settings: list[dict[str, Any]]
    accuracy: jax.Array


def leave_one_out(adapter: Adapter, support: Support) -> jax.Array:
    """Returns logits `[n, classes]` of every support row by the adapter fitted without that row."""

    def one(row: jax.Array) -> jax.Array:
        others = dataclasses.replace(support, labels=support.labels.at[row].set(-1))
        return adapter.fit_support(others)(support.features[row][None])[0]

    return jax.lax.map(one, jnp.arange(len(support.labels)), batch_size=_ROWS_AT_ONCE)


def leave_one_out_accuracy(adapter: Adapter, support: Support) -> jax.Array:
    """Returns the share of support rows that the others classify rightly; rows that are not there do not count."""
    right = jnp.argmax(leave_one_out(adapter, support), axis=1) == support.labels
    return jnp.sum(right) / jnp.maximum(jnp.sum(support.labels >= 0), 1)


def grid_settings(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns every combination of a grid's values, the defaults first."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def grid_accuracy(method: type[Adapter], settings: Sequence[Mapping[str, Any]], support: Support) -> jax.Array:
    """Returns the leave-one-out accuracy of each setting, `[settings]`; one program for each set of static settings."""
    accuracy = jnp.zeros(len(settings))
    for rows in _same_program(method, settings):
        adapters = [method(**settings[row]) for row in rows]
        stacked = jax.tree.map(lambda *leaves: jnp.array(leaves, jnp.float32), *adapters)
        scores = jax.lax.map(
            lambda row, stacked=stacked: leave_one_out_accuracy(jax.tree.map(lambda leaf: leaf[row], stacked), support),
            jnp.arange(len(rows)),
        )
        accuracy = accuracy.at[jnp.array(rows)].set(scores)
    return accuracy


def _same_program(method: type[Adapter], settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for row, values in enumerate(settings):
        groups.setdefault(jax.tree.structure(method(**values)), []).append(row)
    return list(groups.values())


def select(method: type[Adapter], support: Support, *, grid: Mapping[str, Sequence[Any]] | None = None) -> Selection:
    """Returns the adapter with the setting of highest leave-one-out accuracy; of equals the first in the grid.

    Leaving out the only example of a class leaves nothing to recognise it by, so where every class has one example at
    most the defaults are returned.
    """
    settings = grid_settings(method.grid if grid is None else grid)
    if bool(jnp.max(jnp.bincount(support.labels + 1)[1:]) < 2):
        return Selection(method(), settings, jnp.full(len(settings), jnp.nan))
    accuracy = jax.jit(lambda support: grid_accuracy(method, settings, support))(support)
    return Selection(method(**settings[int(jnp.argmax(accuracy))]), settings, accuracy)

"""Texts that occur several times in a batch, and whether their pairs are negative, positive or ignored.

A caption that belongs to several images of a batch is a correct text for each of them. CLIP and SigLIP count every pair
off the diagonal as negative all the same; `reference.pair_roles` defines the alternatives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Treatment = Literal["negative", "positive", "ignored"]


class EqualTexts(NamedTuple):
    """Identifiers of the texts `[batch]`, equal where texts are; None for what the objective does not need.

    positive: an image matches all texts with the identifier of its own; None: its own text alone.
    ignored: texts of other rows with the identifier of an image's own text are left out; None: no pair is left out.
    share: 1 / number of texts that match an image, float32; None if each image has one.
    """

    positive: jax.Array | None = None
    ignored: jax.Array | None = None
    share: jax.Array | None = None


def treat_equal_texts(treatment: Treatment, tokens: jax.Array | None, mesh: Mesh | None = None) -> EqualTexts:
    """Return what the base losses need to treat equal rows of the tokens `[batch, length]` in the given way.

    Raises `ValueError` if tokens are needed and missing.
    """
    if treatment == "negative":
        return EqualTexts()
    if tokens is None:
        raise ValueError(f"objective.equal_texts {treatment!r} needs the tokens of the texts; pass tokens=")
    first = find_first_equal(tokens, mesh)
    if treatment == "ignored":
        return EqualTexts(ignored=first)
    return EqualTexts(positive=first, share=1 / _count_equal(first).astype(jnp.float32))


def create_equal_text_counter(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Return the jitted `count_other_equal_texts` for tokens that are sharded over `mesh`."""
    count = functools.partial(count_other_equal_texts, mesh=mesh)
    return jax.jit(count, out_shardings=NamedSharding(mesh, PartitionSpec()))


def count_other_equal_texts(tokens: jax.Array, mesh: Mesh | None = None) -> jax.Array:
    """Return the mean number of other rows with the same tokens, per row of `[batch, length]`."""
    return jnp.mean(_count_equal(find_first_equal(tokens, mesh)) - 1.0)


def find_first_equal(tokens: jax.Array, mesh: Mesh | None = None) -> jax.Array:
    """Return for each row of the integers `[batch, length]` the index of the first row that equals it `[batch]`.

    Rows are found by a hash of 64 bits and then compared; if different rows share a hash, columns are sorted one by
    one instead. The result is exact in either case. Each device of `mesh` computes all of it.
    """
    tokens = jnp.asarray(tokens)
    if mesh is not None:
        tokens = lax.with_sharding_constraint(tokens, NamedSharding(mesh, PartitionSpec()))
    first = _group(*_hashes(tokens))
    return lax.cond(jnp.all(tokens[first] == tokens), lambda: first, lambda: _group_columns(tokens))


def _hashes(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return two weighted sums of each row modulo 2³²; rows that differ in one column never have the same."""
    weights = np.random.default_rng(0).integers(2**31, size=(2, tokens.shape[1]), dtype=np.uint32) * 2 + 1
    one, two = (jnp.sum(tokens.astype(jnp.uint32) * row, axis=1, dtype=jnp.uint32) for row in weights)
    return one, two


def _group_columns(tokens: jax.Array) -> jax.Array:
    """Return the first equal row of each row: groups of rows with equal beginnings, divided column by column."""
    start = jnp.zeros(len(tokens), jnp.int32)
    groups, _ = lax.scan(lambda groups, column: (_group(groups, column), None), start, tokens.T)
    return groups


def _group(*keys: jax.Array) -> jax.Array:
    """Return for each row the index of the first row with the same keys; `keys` are arrays `[batch]`."""
    index = jnp.arange(len(keys[0]), dtype=jnp.int32)
    *keys, order = lax.sort((*keys, index), num_keys=len(keys))  # stable: the first row of a group leads it
    changed = sum(key[1:] != key[:-1] for key in keys) > 0
    leader = lax.cummax(jnp.where(jnp.concatenate([jnp.zeros(1, bool), changed]), index, 0))
    return jnp.zeros_like(index).at[order].set(order[leader])


def _count_equal(first: jax.Array) -> jax.Array:
    """Return the number of rows that equal each row, itself included."""
    return jnp.zeros_like(first).at[first].add(1)[first]

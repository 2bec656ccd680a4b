"""The largest entries of rows, against a stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapt.adapters.ops import _TOP_K_BLOCK, _TOP_K_LENGTH, top_k


def assert_equals_a_stable_sort(values, k):
    found = jax.jit(top_k, static_argnums=1)(values, k)
    index = np.argsort(-np.asarray(values), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.values, np.take_along_axis(np.asarray(values), index, axis=1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 3, _TOP_K_BLOCK + 5])
@pytest.mark.parametrize("extra", [-1, 0, 1, 45])
def test_largest_entries_of_rows_of_any_length(k, extra, dtype):
    values = np.random.default_rng(k).normal(size=(3, _TOP_K_LENGTH * k + extra))
    with jax.enable_x64(dtype == "float64"):
        assert_equals_a_stable_sort(jnp.asarray(values, dtype), k)


@pytest.mark.parametrize("k", [1, 4, 20])
def test_of_equal_entries_the_first_come_first(k):
    values = np.random.default_rng(0).integers(0, 3, size=(5, 5333)).astype("f4")
    values[1] = 0
    assert_equals_a_stable_sort(jnp.asarray(values), k)


def test_entries_of_minus_infinity_are_ordered_after_all_others():
    values = np.full((4, 1031), -np.inf, "f4")
    values[0, [7, 300, 1030]] = 1, 2, -3
    values[1, 1030] = -5
    assert_equals_a_stable_sort(jnp.asarray(values), 4)

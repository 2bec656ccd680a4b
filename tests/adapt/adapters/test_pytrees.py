"""Adapters as pytrees: their structures differ between methods, or compiled programs of one would serve another."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import pytest

import adapt
from adapt.adapters.pytrees import pytree, static

METHODS = [method for name, method in adapt.METHODS.items() if name != "local"]


def test_structures_of_two_methods_are_never_equal():
    structures = [(type(each), jax.tree.structure(each)) for method in METHODS for each in [method()]]
    structures += [(type(each), jax.tree.structure(each)) for each in map(adapt.find("local"), [m() for m in METHODS])]
    for (first, one), (second, other) in itertools.combinations(structures, 2):
        assert one != other, (first, second)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_leaves_and_static_values_pass_through_a_compiled_function(method):
    adapter = method()
    again = jax.jit(lambda each: jax.tree.map(jnp.asarray, each))(adapter)
    assert type(again) is method
    for field in dataclasses.fields(adapter):
        before, after = getattr(adapter, field.name), getattr(again, field.name)
        assert type(after) is type(before) if field.metadata.get("static") else float(after) == jnp.float32(before)


def test_classes_that_differ_only_in_name_are_not_mixed_up_by_jit():
    add_one = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree))
    for number in range(300):  # with `register_dataclass` of JAX 0.10.2 about 15 % came out as another class
        cls = pytree(
            type(f"Settings{number}", (), {"__annotations__": {"value": float, "size": int}, "size": static(3)})
        )
        assert type(add_one(cls(1.0))) is cls


def test_leaves_are_named_in_key_paths():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(adapt.create("clap"))]
    assert paths == [".constraint", ".learning_rate"]

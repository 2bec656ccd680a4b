"""Frozen dataclasses as JAX pytrees: the form of adapters, support sets and classifiers."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def pytree(cls: type[T]) -> type[T]:
    """Turn a class into a frozen dataclass that JAX treats as a pytree.

    Fields are leaves, which can be traced and mapped over, except those declared with `static`.

    `jax.tree_util.register_dataclass` would be shorter, but up to JAX 0.10 the structures of any two classes that it
    registers compare equal if their static values do: `jax.jit` then runs, at random, the program of the other class.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    leaves = [field.name for field in fields if not field.metadata.get("static")]
    statics = [field.name for field in fields if field.metadata.get("static")]

    def flatten(instance: T) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(instance, name) for name in leaves], tuple(getattr(instance, name) for name in statics)

    def flatten_with_keys(instance: T) -> tuple[list[Any], tuple[Any, ...]]:
        values, static_values = flatten(instance)
        return [(jax.tree_util.GetAttrKey(name), v) for name, v in zip(leaves, values, strict=True)], static_values

    def unflatten(static_values: tuple[Any, ...], values: Any) -> T:
        return cls(**dict(zip(leaves, values, strict=True)), **dict(zip(statics, static_values, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def static(default: Any) -> Any:
    """Declare a field that is part of the compiled program instead of a traced leaf."""
    return dataclasses.field(default=default, metadata={"static": True})


def settings_of(adapter: Any) -> dict[str, Any]:
    """Return the settings with which `adapt.create` creates this adapter again.

    For an adapter around another one (`local`), the settings of the inner adapter are included.
    """
    settings = {field.name: getattr(adapter, field.name) for field in dataclasses.fields(adapter)}
    if "inner" in settings:
        inner = settings["inner"]
        settings |= {"inner": inner.name} | settings_of(inner)
    return settings

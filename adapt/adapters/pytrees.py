"""Frozen dataclasses as JAX pytrees: the form of adapters, support sets and classifiers."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def pytree(cls: type[T]) -> type[T]:
    """Turn a class into a frozen dataclass that JAX treats as a pytree.

    Fields are leaves, which can be traced and mapped over, except those declared with `static`.
    """
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


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

"""Typed settings: dataclasses whose values come from the section of a config and are checked against their annotations.

Annotations may be `Literal[...]` for choices and the ranges below. Values are checked strictly: a float may be given as
an int, but a string or a bool is never a number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field

from foundation.deprecation import warn_renamed
from foundation.suggestions import did_you_mean, unknown_name

T = TypeVar("T")

PositiveInt = Annotated[int, Field(ge=1, description="a positive whole number")]
NonNegativeInt = Annotated[int, Field(ge=0, description="a whole number, 0 or more")]
PositiveFloat = Annotated[float, Field(gt=0, lt=math.inf, description="a positive, finite number")]
NonNegativeFloat = Annotated[float, Field(ge=0, lt=math.inf, description="a finite number, 0 or more")]
FiniteFloat = Annotated[float, Field(gt=-math.inf, lt=math.inf, description="a finite number")]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1, description="a whole number from 0 to 2**63 - 1")]
UnitFloat = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]

_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "boolean": "True or False",
    "null": "None",
}
_ITEMS = {"integer": "whole numbers", "number": "numbers", "string": "strings"}


def build(settings_class: type[T], section: str, values: Mapping[str, Any]) -> T:
    """Return `settings_class(**values)` for the values of a config section.

    Lists become tuples. Old keys in `settings_class.RENAMED` (old key → new key) are accepted with a warning. Raises
    `ValueError` for unknown and missing keys, and for values that do not fit the annotations.
    """
    values = _as_dict(values)
    if not isinstance(values, dict):
        raise ValueError(f"{section} is {values!r}; it must be a section of settings")
    values = _rename_keys({name: _as_tuple(_as_dict(value)) for name, value in values.items()}, settings_class, section)
    fields = {field.name: field for field in dataclasses.fields(settings_class)}  # type: ignore[arg-type]
    for name in sorted(set(values) - set(fields)):
        hint = did_you_mean(name, fields)
        raise ValueError(f"unknown key {section}.{name}.{hint} Known: {', '.join(fields)}")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"the config lacks {section}.{name}")
    _check(settings_class, section, values)
    return settings_class(**values)


def accepts(settings_class: type, name: str, value: Any) -> bool:
    """Return whether a value fits the annotation of a field."""
    try:
        _validators(settings_class)[name].validate_python(_as_tuple(value), strict=True)
    except pydantic.ValidationError:
        return False
    return True


def accepted_values(settings_class: type) -> dict[str, str]:
    """Return the values that each field of a settings dataclass accepts, in words."""
    described = {}
    for name, validator in _validators(settings_class).items():
        schema = validator.json_schema()
        choices = _choices(schema)
        described[name] = ", ".join(map(repr, choices)) if choices else _describe(schema)
    return described


def check(settings: Any, section: str) -> None:
    """Raise `ValueError` for a field of a settings dataclass that does not fit its annotation."""
    names = [field.name for field in dataclasses.fields(settings)]
    _check(type(settings), section, {name: getattr(settings, name) for name in names})


def _check(settings_class: type, section: str, values: Mapping[str, Any]) -> None:
    validators = _validators(settings_class)
    for name, value in values.items():
        try:
            validators[name].validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            location, schema = error.errors()[0]["loc"], validators[name].json_schema()
            raise ValueError(_problem(f"{section}.{name}", value, schema, location)) from None


@functools.cache
def _validators(settings_class: type) -> dict[str, pydantic.TypeAdapter]:
    types = typing.get_type_hints(settings_class, include_extras=True)
    return {field.name: _validator(types[field.name]) for field in dataclasses.fields(settings_class)}


def _validator(annotation: Any) -> pydantic.TypeAdapter:
    if dataclasses.is_dataclass(annotation):  # has a configuration of its own
        return pydantic.TypeAdapter(annotation)
    return pydantic.TypeAdapter(annotation, config=pydantic.ConfigDict(arbitrary_types_allowed=True))


def _problem(name: str, value: Any, schema: Mapping[str, Any], location: tuple[int | str, ...]) -> str:
    """Return the error message for a value, or for the item of a tuple at `location`."""
    item_schemas = schema.get("prefixItems", [schema["items"]] if "items" in schema else [])
    if location and isinstance(location[0], int) and item_schemas and location[0] < len(value):
        number = location[0]
        item = item_schemas[min(number, len(item_schemas) - 1)]
        where = name if _choices(item) else f"{name}[{number}]"
        return _problem(where, value[number], item, location[1:])
    choices = _choices(schema)
    return unknown_name(name, value, choices) if choices else f"{name} is {value!r}; it must be {_describe(schema)}"


def _choices(schema: Mapping[str, Any]) -> list[Any]:
    """Return the values that a `Literal` allows, with None if it is optional; an empty list for other types."""
    parts = schema.get("anyOf", [schema])
    choices = [choice for part in parts for choice in part.get("enum", [part["const"]] if "const" in part else [])]
    optional = any(part.get("type") == "null" for part in parts)
    return [*choices, None] if choices and optional else choices


def _describe(schema: Mapping[str, Any]) -> str:
    """Return the values that a JSON schema allows, in words."""
    if "$ref" in schema or schema.get("type") == "object":  # its description is the docstring of the settings class
        return "a section of settings"
    if "description" in schema:
        return schema["description"]
    if "anyOf" in schema:
        return " or ".join(map(_describe, schema["anyOf"]))
    if "prefixItems" in schema:
        return f"a tuple ({', '.join(map(_describe, schema['prefixItems']))})"
    if schema.get("type") == "array":
        items = _ITEMS.get(schema["items"].get("type"))
        return f"a tuple of {items}" if items else "a tuple"
    return _TYPES[schema["type"]]


def _rename_keys(values: dict[str, Any], settings_class: type, section: str) -> dict[str, Any]:
    for old, new in getattr(settings_class, "RENAMED", {}).items():
        if old in values and new in values:
            raise ValueError(f"{section}.{old} is the old name of {section}.{new}, and both are set. Remove {old}.")
        if old in values:
            warn_renamed(f"{section}.{old}", f"{section}.{new}")
            values[new] = values.pop(old)
    return values


def _as_dict(value: Any) -> Any:
    """Return a mapping as a dict; a `ConfigDict` of ml_collections has `items` but is not a `Mapping`."""
    is_mapping = isinstance(value, Mapping) or (hasattr(value, "keys") and hasattr(value, "items"))
    return dict(value.items()) if is_mapping else value


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value

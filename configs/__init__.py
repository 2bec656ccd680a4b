"""One file, one run: `get_config()` returns its ConfigDict. Here they are read, with what the command line changes.

A file may define `get_sweep()` as well: points, each a dict of dotted keys and values, of which each is a run.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import os
import pathlib
import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_collections import ConfigDict

FOLDER = pathlib.Path(__file__).parent
Known = Callable[[], Mapping[tuple[str, ...], type]]


def load(path: str, overrides: Sequence[str], known: Known) -> ConfigDict:
    """Returns the config of a file with `--config.key=value` overrides; an unknown key names the known ones.

    `known()` gives the typed settings of sections, by their path; it is asked where the file lacks a key.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no config file {path}; configs/ has {', '.join(known_configs())}")
    config = runpy.run_path(path)["get_config"]()
    for override in overrides:
        key, equals, text = override.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"{override} has no value; write {override}=VALUE")
        set_value(config, key, text, known)
    return config


def load_sweep(path: str) -> list[dict[str, Any]]:
    """Returns the points of a config file's `get_sweep()`; none where it has no such function."""
    found = runpy.run_path(path).get("get_sweep")
    points = [] if found is None else [dict(point) for point in found()]
    for number, point in enumerate(points):
        if not point or not all(isinstance(key, str) for key in point):
            raise ValueError(f"point {number} of get_sweep() in {path} is {point!r}; write {{'pretrain.seed': 1}}")
    return points


def grid(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns the points of all combinations of values by dotted key; the last key changes fastest."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def set_value(config: ConfigDict, key: str, text: str, known: Known) -> None:
    """Sets the dotted key to what `text` spells; it is one that the config names, or a setting with a default."""
    *sections, last = key.split(".")
    found: Any = config
    for part in [*sections, last]:
        if hasattr(found, "keys") and part in found:
            found = found[part]
        else:
            found = default_of(key, part, found if hasattr(found, "keys") else {}, known())
            break
    try:
        value = parse_value(text, like=found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config key {key} is {found!r} and cannot become {text!r}") from error
    with config.unlocked():
        parent = config
        for part in sections:
            if part not in parent:
                parent[part] = type(config)()
            parent = parent[part]
        try:
            parent[last] = found  # so that the config minds the type
            parent[last] = value
        except (TypeError, ValueError) as error:
            raise ValueError(f"config key {key} is {found!r} and cannot become {text!r}") from error


def default_of(key: str, part: str, beside: Mapping[str, Any], known: Mapping[tuple[str, ...], type]) -> Any:
    """Returns the default of a setting of which the config lacks `part`; raises `ValueError` naming the known ones.

    `beside` are the keys that the config has in that place.
    """
    *section, last = key.split(".")
    fields = dataclasses.fields(known[tuple(section)]) if tuple(section) in known else ()
    for field in fields:
        if field.name == last:
            return None if field.default is dataclasses.MISSING else field.default
    if fields and part != last:
        part, beside = last, {}  # the section is known, whether the config has it or not
    names = {field.name for field in fields} if part == last else set()
    names = sorted(names | set(beside)) or ["nothing, it is a value"]
    raise ValueError(f"unknown config key {key!r}: no {part!r} among {', '.join(names)}")


def parse_value(text: str, *, like: Any) -> Any:
    """Returns the value that `text` spells for a setting whose value so far is `like`."""
    if isinstance(like, str):
        return text
    if isinstance(like, bool):
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        parts = re.split(r",(?![^{}]*\})", text)  # not at the commas of a pattern such as {train,extra}-*.tar
        value = tuple(filter(None, parts)) if isinstance(like, tuple) else text
    if isinstance(like, tuple) and not isinstance(value, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
    return value


def known_configs() -> list[str]:
    """Returns the names of the config files that come with the project."""
    return sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("[!_]*.py"))

"""Read config files and apply command-line overrides.

Each file of this package defines one run: its `get_config()` returns a `ConfigDict`. A file may also define
`get_sweep()`, a list of points. Each point is a dict of dotted config keys and values, and is a run of its own.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import itertools
import os
import pathlib
import re
import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_collections import ConfigDict

FOLDER = pathlib.Path(__file__).parent
KnownSettings = Callable[[], Mapping[tuple[str, ...], type]]


def load(path: str, overrides: Sequence[str], *, known: KnownSettings) -> ConfigDict:
    """Return the config of a file with `--config.key=value` overrides applied.

    `known()` maps the path of each section to the dataclass of its settings. It is called only for a key that the file
    does not set, to find its default. An unknown key raises a `ValueError` that lists the known ones.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no config file {path}; configs/ has {', '.join(known_configs())}")
    config = runpy.run_path(path)["get_config"]()
    for override in overrides:
        key, equals, text = override.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"{override} has no value; write {override}=VALUE")
        set_value(config, key, text, known=known)
    return config


def load_sweep(path: str) -> list[dict[str, Any]]:
    """Return the points of a config file's `get_sweep()`, or an empty list if the file does not define it."""
    get_sweep = runpy.run_path(path).get("get_sweep")
    points = [] if get_sweep is None else [dict(point) for point in get_sweep()]
    for number, point in enumerate(points):
        if not point or not all(isinstance(key, str) for key in point):
            raise ValueError(
                f"point {number} of get_sweep() in {path} is {point!r}. A point maps config keys to values, for "
                "example {'pretrain.seed': 1}."
            )
    return points


def grid(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return a point for every combination of `values` by dotted key; the last key varies fastest."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def set_value(config: ConfigDict, key: str, text: str, *, known: KnownSettings) -> None:
    """Set a dotted key to the value that `text` spells. The config has the key, or it is a setting with a default."""
    *sections, last = key.split(".")
    current: Any = config
    new_name = None
    for part in [*sections, last]:
        if hasattr(current, "keys") and part in current:
            current = current[part]
        else:
            current = default_of(key, part, siblings=current if hasattr(current, "keys") else {}, known=known())
            new_name = _renamed(known().get(tuple(sections))).get(last)
            break
    problem = f"config key {key} is {current!r} and cannot become {text!r}"
    try:
        value = parse_value(text, like=current)
    except (TypeError, ValueError) as error:
        raise ValueError(problem) from error
    with config.unlocked():
        parent = config
        for part in sections:
            if part not in parent:
                parent[part] = type(config)()
            parent = parent[part]
        if new_name in parent:
            del parent[new_name]  # an override by the old name replaces the value in the file
        try:
            parent[last] = current  # the config then checks the type of the new value
            parent[last] = value
        except (TypeError, ValueError) as error:
            raise ValueError(problem) from error


def default_of(key: str, part: str, *, siblings: Iterable[str], known: Mapping[tuple[str, ...], type]) -> Any:
    """Return the default of the setting `key`, whose component `part` the config lacks.

    `siblings` are the keys that the config has in the place of `part`. Raises `ValueError` for an unknown setting, with
    the nearest and all known ones.
    """
    *section, last = key.split(".")
    settings = known.get(tuple(section))
    fields = dataclasses.fields(settings) if settings else ()
    current_name = _renamed(settings).get(last, last)
    for field in fields:
        if field.name == current_name:
            return None if field.default is dataclasses.MISSING else field.default
    if fields and part != last:
        part, siblings = last, ()  # the section is known even if the config lacks it
    names = sorted({field.name for field in fields if part == last} | set(siblings))
    if not names:
        raise ValueError(f"unknown config key {key!r}: {key.partition('.' + part)[0]} is a value and has no settings")
    nearest = difflib.get_close_matches(part, names, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    what = "setting" if part == last else "section"
    raise ValueError(f"unknown config key {key!r}: no {what} is named {part!r}. {hint}Known: {', '.join(names)}")


def _renamed(settings: type | None) -> Mapping[str, str]:
    """Return the renamed keys of a settings class, old to new; `foundation.settings.build` accepts both."""
    return getattr(settings, "RENAMED", {})


def parse_value(text: str, *, like: Any) -> Any:
    """Return the value that `text` spells for a setting whose current value is `like`."""
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
    """Return the paths of the project's config files, relative to `configs/`."""
    return sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("[!_]*.py"))

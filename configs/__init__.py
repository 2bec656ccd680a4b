"""Read config files and apply command-line overrides.

Each file of this package defines one run: its `get_config()` returns a `ConfigDict`. A file may also define
`get_sweep()`, a list of points. Each point is a dict of dotted config keys and values, and is a run of its own.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import os
import pathlib
import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foundation.command_line.option_values import parse_value
from foundation.suggestions import did_you_mean, nearest_path

if TYPE_CHECKING:
    from ml_collections import ConfigDict

FOLDER = pathlib.Path(__file__).parent
KnownSettings = Callable[[], Mapping[tuple[str, ...], type]]


def load(path: str, overrides: Sequence[str], *, known: KnownSettings) -> ConfigDict:
    """Return the config of a file with `--config.key=value` overrides applied.

    `known()` maps the path of each section to the dataclass of its settings. It is called only for overrides, to find
    the type and the default of a setting. An unknown key raises a `ValueError` that lists the known ones. A `~` at the
    start of a string is the home folder.
    """
    get_config = _run(path).get("get_config")
    if not callable(get_config):
        raise ValueError(f"{path} does not define get_config(), which returns the settings of a run")
    config = get_config()
    for override in overrides:
        key, equals, text = override.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"{override} has no value; write {override}=VALUE")
        set_value(config, key, text, known=known)
    _expand_users(config)
    return config


def load_sweep(path: str) -> list[dict[str, Any]]:
    """Return the points of a config file's `get_sweep()`, or an empty list if the file does not define it."""
    get_sweep = _run(path).get("get_sweep")
    points = [] if get_sweep is None else [dict(point) for point in get_sweep()]
    for number, point in enumerate(points):
        if not point or not all(isinstance(key, str) for key in point):
            raise ValueError(
                f"point {number} of get_sweep() in {path} is {point!r}. A point maps config keys to values, for "
                "example {'pretrain.seed': 1}."
            )
    return points


def _run(path: str) -> dict[str, Any]:
    """Return what a config file defines; raises `FileNotFoundError` and `ValueError` for a file that is not one."""
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder, not a config file.")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no config file {path}{_nearest(path)}")
    try:
        return runpy.run_path(path)
    except SyntaxError as error:
        raise ValueError(f"{error.filename} is not valid Python: {error.msg} in line {error.lineno}") from error


def _nearest(path: str) -> str:
    """Return where to look for a config file that does not exist, to end a sentence."""
    name = pathlib.Path(path).name.removesuffix(".py") + ".py"
    own = next((each for each in known_configs() if each == name or pathlib.Path(each).name == name), None)
    hint = f" Did you mean {FOLDER / own}?" if own else nearest_path(path) or did_you_mean(name, known_configs())
    return f" in {os.getcwd()}.{hint} {FOLDER} has {', '.join(known_configs())}"


def _expand_users(config: ConfigDict) -> None:
    """Replace the `~` at the start of strings, in all sections."""
    for key, value in config.items():
        if hasattr(value, "keys"):
            _expand_users(value)
        elif isinstance(value, str) and value.startswith("~"):
            config[key] = os.path.expanduser(value)
        elif isinstance(value, tuple) and any(isinstance(item, str) and item.startswith("~") for item in value):
            config[key] = tuple(os.path.expanduser(item) if isinstance(item, str) else item for item in value)


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
    from foundation.settings import accepts  # not imported by --help

    settings = known().get(tuple(sections))
    name = _renamed(settings).get(last, last)
    is_field = settings is not None and name in {field.name for field in dataclasses.fields(settings)}
    fits = functools.partial(accepts, settings, name) if is_field else None
    value = parse_value(text, like=current, fits=fits)
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
    nearest = nearest_name(part, names) or next(
        (each for each in setting_keys(known) if each.endswith(f".{key}")), None
    )
    hint = f"Did you mean {nearest!r}? " if nearest else ""
    what = "setting" if part == last else "section"
    raise ValueError(f"unknown config key {key!r}: no {what} is named {part!r}. {hint}Known: {', '.join(names)}")


def setting_keys(known: Mapping[tuple[str, ...], type]) -> list[str]:
    """Return the dotted keys of all settings, such as `pretrain.steps`."""
    return [".".join((*section, field.name)) for section, kind in known.items() for field in dataclasses.fields(kind)]


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the nearest of several names, or None if none is near."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


def _renamed(settings: type | None) -> Mapping[str, str]:
    """Return the renamed keys of a settings class, old to new; `foundation.settings.build` accepts both."""
    return getattr(settings, "RENAMED", {})


def known_configs() -> list[str]:
    """Return the paths of the project's config files, relative to `configs/`."""
    return sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("[!_]*.py"))

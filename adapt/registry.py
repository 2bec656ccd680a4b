"""The adapters by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

import jax
import numpy as np

from adapt.adapter import Adapter
from adapt.ape import Ape
from adapt.checks import check_setting
from adapt.clap import Clap
from adapt.clip_adapter import ClipAdapter
from adapt.gda import Gda
from adapt.knn import Knn
from adapt.linear_probe import LinearProbe, LinearProbeText
from adapt.llu import Llu
from adapt.local import Local
from adapt.lp_plus_plus import LpPlusPlus
from adapt.proker import Proker
from adapt.prototypes import Prototypes
from adapt.taskres import TaskRes
from adapt.tip_adapter import TipAdapter
from adapt.tip_adapter_f import TipAdapterF
from adapt.tip_x import TipX
from adapt.zero_shot import ZeroShot

METHODS: dict[str, type[Adapter]] = {
    "zero_shot": ZeroShot,
    "prototypes": Prototypes,
    "knn": Knn,
    "tip_adapter": TipAdapter,
    "tip_x": TipX,
    "ape": Ape,
    "gda": Gda,
    "proker": Proker,
    "local": Local,
    "llu": Llu,
    "linear_probe": LinearProbe,
    "linear_probe_text": LinearProbeText,
    "lp_plus_plus": LpPlusPlus,
    "clap": Clap,
    "tip_adapter_f": TipAdapterF,
    "clip_adapter": ClipAdapter,
    "taskres": TaskRes,
}
TRAINING_FREE = tuple(name for name, method in METHODS.items() if method.training_free)


def find(name: str) -> type[Adapter]:
    """Returns the adapter of that name; raises `ValueError` listing the known ones."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"unknown adapter {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def create(name: str, **settings: Any) -> Adapter:
    """Returns the adapter of that name with the given settings; raises `ValueError` for what it does not know.

    `inner`, the adapter within "local", is named or an adapter; the settings of a named one are given beside it. A
    setting may be an array, to map over; its values are not looked at then.
    """
    if "inner" in _fields(name):
        inner = settings.get("inner", METHODS[name]().inner)
        given = {key: settings.pop(key) for key in list(settings) if key not in _fields(name)}
        if not isinstance(inner, str | Adapter):
            raise ValueError(f"inner {inner!r} is no adapter; known: {', '.join(METHODS)}")
        if isinstance(inner, str) or given:
            known = _fields(inner) if isinstance(inner, str) else settings_of(inner)
            _check_known(name, given, [*_fields(name), *known])
            inner = create(inner, **given) if isinstance(inner, str) else create(name_of(inner), **known | given)
        settings["inner"] = inner
    defaults = _fields(name)
    _check_known(name, settings, defaults)
    static = {field.name for field in dataclasses.fields(METHODS[name]) if field.metadata.get("static")}
    plain = {}
    for setting, value in settings.items():
        if not isinstance(value, jax.Array | np.ndarray):
            check_setting(setting, value, defaults[setting])
            settings[setting] = plain[setting] = _as_default(value, defaults[setting])
        elif setting in static or not np.issubdtype(value.dtype, np.number):
            raise ValueError(f"{setting} of {name} cannot be an array of {value.dtype}; give one value")
    METHODS[name](**plain).check()
    return METHODS[name](**settings)


def _as_default(value: Any, default: Any) -> Any:
    return type(default)(value) if isinstance(default, int | float) else value


def _fields(name: str) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(find(name))}


def _check_known(name: str, settings: Iterable[str], known: Collection[str]) -> None:
    for setting in settings:
        if setting not in known:
            raise ValueError(f"unknown setting {setting!r} of {name}; known: {', '.join(known) or 'none'}")


def name_of(adapter: Adapter) -> str:
    """Returns the name that an adapter is registered under."""
    return next(name for name, method in METHODS.items() if method is type(adapter))


def settings_of(adapter: Adapter) -> dict[str, Any]:
    """Returns the settings that `create` makes the adapter of."""
    settings = {field.name: getattr(adapter, field.name) for field in dataclasses.fields(adapter)}
    if "inner" in settings:
        inner = settings["inner"]
        settings |= {"inner": name_of(inner)} | settings_of(inner)
    return settings


def methods() -> dict[str, dict[str, Any]]:
    """Returns name → whether it is training-free, local, needs class texts, and its settings with their defaults."""
    return {
        name: {
            "training_free": adapter.training_free,
            "local": adapter.local,
            "needs_text": adapter.needs_text,
            "settings": settings_of(adapter),
        }
        for name, adapter in ((name, method()) for name, method in METHODS.items())
    }

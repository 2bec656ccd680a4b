"""The adapters by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

import jax
import numpy as np

from adapt.adapters.ape import Ape
from adapt.adapters.base import Adapter, settings_of
from adapt.adapters.clap import Clap
from adapt.adapters.clip_adapter import ClipAdapter
from adapt.adapters.gda import Gda
from adapt.adapters.knn import Knn
from adapt.adapters.linear_probe import LinearProbe, LinearProbeText
from adapt.adapters.llu import Llu
from adapt.adapters.local import Local
from adapt.adapters.lp_plus_plus import LpPlusPlus
from adapt.adapters.proker import Proker
from adapt.adapters.prototypes import Prototypes
from adapt.adapters.taskres import TaskRes
from adapt.adapters.tip_adapter import TipAdapter
from adapt.adapters.tip_adapter_f import TipAdapterF
from adapt.adapters.tip_x import TipX
from adapt.adapters.validation import check_setting
from adapt.adapters.zero_shot import ZeroShot

METHODS: dict[str, type[Adapter]] = {
    method.name: method
    for method in (
        ZeroShot,
        Prototypes,
        Knn,
        TipAdapter,
        TipX,
        Ape,
        Gda,
        Proker,
        Local,
        Llu,
        LinearProbe,
        LinearProbeText,
        LpPlusPlus,
        Clap,
        TipAdapterF,
        ClipAdapter,
        TaskRes,
    )
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
            inner = create(inner, **given) if isinstance(inner, str) else create(inner.name, **known | given)
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

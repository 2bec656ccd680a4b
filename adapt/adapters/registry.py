"""The adapters by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

import jax
import numpy as np

from adapt.adapters.base import Adapter
from adapt.adapters.local_updates.llu import Llu
from adapt.adapters.local_updates.local import Local
from adapt.adapters.pytrees import settings_of
from adapt.adapters.trained.clap import Clap
from adapt.adapters.trained.clip_adapter import ClipAdapter
from adapt.adapters.trained.linear_probe import LinearProbe, LinearProbeText
from adapt.adapters.trained.lp_plus_plus import LpPlusPlus
from adapt.adapters.trained.rla import Rla
from adapt.adapters.trained.taskres import TaskRes
from adapt.adapters.trained.tip_adapter_f import TipAdapterF
from adapt.adapters.training_free.ape import Ape
from adapt.adapters.training_free.gda import Gda
from adapt.adapters.training_free.knn import Knn
from adapt.adapters.training_free.proker import Proker
from adapt.adapters.training_free.prototypes import Prototypes
from adapt.adapters.training_free.ss_text import SsText
from adapt.adapters.training_free.tip_adapter import TipAdapter
from adapt.adapters.training_free.tip_x import TipX
from adapt.adapters.training_free.zero_shot import ZeroShot
from adapt.adapters.transductive.ss_text_u import SsTextU
from adapt.adapters.transductive.transclip import TransClip
from adapt.adapters.validation import check_setting
from foundation.suggestions import unknown_name

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
        SsText,
        Local,
        TransClip,
        SsTextU,
        Llu,
        LinearProbe,
        LinearProbeText,
        LpPlusPlus,
        Clap,
        TipAdapterF,
        ClipAdapter,
        TaskRes,
        Rla,
    )
}
TRANSDUCTIVE = tuple(name for name, method in METHODS.items() if method().transductive)
TRAINING_FREE = tuple(name for name, method in METHODS.items() if method.training_free and name not in TRANSDUCTIVE)


def find(name: str) -> type[Adapter]:
    """Return the adapter class of a method; raises `ValueError` for an unknown name."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(unknown_name("method", name, METHODS))
    return METHODS[name]


def create(name: str, **settings: Any) -> Adapter:
    """Return the adapter of a method with the given settings and defaults for the rest.

    For "local", `inner` is a method name or an adapter, and settings of the inner method may be given as well. A
    setting may be a JAX or NumPy array, to be mapped over; the values of an array are not checked.

    Raises `ValueError` for an unknown method, an unknown setting and a value outside its range.
    """
    defaults = _defaults(name)
    if "inner" in defaults:
        settings = _with_inner_adapter(name, settings)
    _check_known(name, settings, defaults)
    static = {field.name for field in dataclasses.fields(METHODS[name]) if field.metadata.get("static")}
    scalars = {}
    for setting, value in settings.items():
        if not isinstance(value, jax.Array | np.ndarray):
            check_setting(setting, value, defaults[setting])
            settings[setting] = scalars[setting] = _cast(value, defaults[setting])
        elif setting in static or not np.issubdtype(value.dtype, np.number):
            raise ValueError(f"{setting} of {name} cannot be an array of {value.dtype}; pass a single value")
    METHODS[name](**scalars).check_settings()
    return METHODS[name](**settings)


def _with_inner_adapter(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the outer adapter, in which `inner` is an adapter created with the remaining settings."""
    outer = {key: value for key, value in settings.items() if key in _defaults(name)}
    given = {key: value for key, value in settings.items() if key not in outer}
    inner = outer.get("inner", METHODS[name]().inner)
    if not isinstance(inner, str | Adapter):
        raise ValueError(f"inner {inner!r} is not an adapter. Pass an adapter, or a method name: {', '.join(METHODS)}")
    known = _defaults(inner) if isinstance(inner, str) else settings_of(inner)
    _check_known(name, given, [*_defaults(name), *known])
    if isinstance(inner, str):
        inner = create(inner, **given)
    elif given:
        inner = create(inner.name, **known | given)
    return outer | {"inner": inner}


def _cast(value: Any, default: Any) -> Any:
    """Return a number in the type of its default, so that equal settings share a compiled program."""
    return type(default)(value) if isinstance(default, int | float) else value


def _defaults(name: str) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(find(name))}


def _check_known(name: str, settings: Iterable[str], known: Collection[str]) -> None:
    for setting in settings:
        if setting not in known:
            raise ValueError(unknown_name(f"{name} setting", setting, known))


def methods() -> dict[str, dict[str, Any]]:
    """Return a description of every method.

    The keys are `training_free`, `transductive`, `local`, `needs_text` and `settings`, the defaults of its settings.
    """
    return {
        name: {
            "training_free": adapter.training_free,
            "transductive": adapter.transductive,
            "local": adapter.local,
            "needs_text": adapter.needs_text,
            "settings": settings_of(adapter),
        }
        for name, adapter in ((name, method()) for name, method in METHODS.items())
    }

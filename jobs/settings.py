"""Typed settings of a config's sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from adapt.evaluation.config import EvaluateSettings


def typed(settings: type, section: str, values: Mapping[str, Any]) -> Any:
    """Return the typed settings of a config section."""
    from foundation.settings import build

    return build(settings, section, values)


def evaluation_settings(config: ConfigDict, job: str = "pretrain") -> EvaluateSettings | None:
    """Return the settings of the evaluation while a run trains, or None if the config asks for none."""
    every = config[job].get("evaluate_every")
    if not every:
        return None
    from adapt.evaluation.config import EvaluateSettings

    sections = [name for name in ("evaluate", "evaluate_in_training") if name in config]
    if not sections:
        raise ValueError(
            f"{job}.evaluate_every is {every}, but the config has no section evaluate. Add one that names datasets."
        )
    values = {name: value for section in sections for name, value in config[section].items()}
    return typed(EvaluateSettings, sections[-1], values)

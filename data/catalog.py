"""Labelled image sets for few-shot evaluation, by name."""

from __future__ import annotations

from data.labelled import DatasetSettings

CATALOGUE: dict[str, DatasetSettings] = {}

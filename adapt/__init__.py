"""Few-shot adaptation of exported checkpoints.

adapter = adapt.create("tip_adapter", alpha=1.0, beta=5.5)
classifier = adapter.fit(support_features, support_labels, class_text_features=class_text_features)
logits = classifier(query_features)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from adapt.adapter import Adapter, Classifier, Support
from adapt.knn import Knn
from adapt.prototypes import Prototypes
from adapt.selection import Selection, select
from adapt.tip_adapter import TipAdapter
from adapt.zero_shot import ZeroShot

__all__ = ["METHODS", "Adapter", "Classifier", "Selection", "Support", "create", "methods", "select"]

METHODS: dict[str, type[Adapter]] = {
    "zero_shot": ZeroShot,
    "prototypes": Prototypes,
    "knn": Knn,
    "tip_adapter": TipAdapter,
}


def find(name: str) -> type[Adapter]:
    """Returns the adapter of that name; raises `ValueError` listing the known ones."""
    if name not in METHODS:
        raise ValueError(f"unknown adapter {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def create(name: str, **settings: Any) -> Adapter:
    """Returns the adapter of that name with the given settings; raises `ValueError` for what it does not know."""
    known = [field.name for field in dataclasses.fields(find(name))]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"unknown setting {setting!r} of {name}; known: {', '.join(known) or 'none'}")
    adapter = METHODS[name](**settings)
    adapter.check()
    return adapter


def methods() -> dict[str, dict[str, Any]]:
    """Returns name → whether it needs class texts, and its settings with their defaults."""
    return {
        name: {
            "needs_text": method.needs_text,
            "settings": {field.name: field.default for field in dataclasses.fields(method)},
        }
        for name, method in METHODS.items()
    }

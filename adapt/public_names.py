"""The public names of `adapt` that need JAX."""

from adapt.adapters.base import Adapter, Classifier
from adapt.adapters.registry import METHODS, TRAINING_FREE, create, find, methods
from adapt.adapters.serialization import load
from adapt.adapters.support import Support
from adapt.model_selection.hyperparameters import Selection, select

__all__ = [
    "METHODS",
    "TRAINING_FREE",
    "Adapter",
    "Classifier",
    "Selection",
    "Support",
    "create",
    "find",
    "load",
    "methods",
    "select",
]

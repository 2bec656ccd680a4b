"""Few-shot adaptation of exported checkpoints.

adapter = adapt.create("tip_adapter", alpha=1.0, beta=5.5)
classifier = adapter.fit(support_features, support_labels, class_text_features=class_text_features)
logits = classifier(query_features)
"""

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

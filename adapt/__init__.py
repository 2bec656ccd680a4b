"""Few-shot adaptation of pretrained checkpoints: from a few labelled images per class to a classifier.

    import adapt

    encoder = adapt.Encoder("runs/mine/export")
    features = encoder.embed_images(support_images)  # PIL images, arrays or paths
    texts = dict(zip(names, encoder.embed_texts(names)))  # optional

    estimator = adapt.FewShotClassifier("tip_adapter", class_text_features=texts)
    estimator.fit(features, labels)  # labels are names or numbers
    estimator.predict_proba(encoder.embed_images(query_images))  # calibrated, [queries, classes]

The public names:

- `FewShotClassifier(method, **settings)` is a scikit-learn classifier: names as labels, calibrated probabilities,
  `partial_fit`, cross-validation, pipelines.
- `create(method, **settings)` returns an `Adapter`, and `adapter.fit(...)` a `Classifier`, which maps features to
  logits. They are pytrees and pure functions in JAX, for compiled functions; `FewShotClassifier` wraps them.
- `select(method, ...)` chooses the settings of a method on the support set and returns a `Selection`.
- `load(folder)` opens a `Classifier` that `classifier.save(folder)` wrote; `FewShotClassifier.load(folder)` opens it
  with its class names.
- `methods()` describes all methods; `find(method)` returns the class of one. `METHODS` maps method names to classes,
  `TRAINING_FREE` lists the methods without gradient descent.
- `Encoder(checkpoint)` embeds images and texts.
- `Support` is a support set as a pytree, for `adapter.fit_support` inside compiled functions.

Each name is imported on first use, so that `import adapt` is fast. docs/ADAPTERS.md compares the methods,
docs/EXTENDING.md shows how to write one.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.adapters.base import Adapter, Classifier
    from adapt.adapters.registry import METHODS, TRAINING_FREE, create, find, methods
    from adapt.adapters.serialization import load
    from adapt.adapters.support import Support
    from adapt.embedding.encoder import Encoder
    from adapt.estimators.few_shot_classifier import FewShotClassifier
    from adapt.model_selection.hyperparameters import Selection, select

__all__ = [
    "METHODS",
    "TRAINING_FREE",
    "Adapter",
    "Classifier",
    "Encoder",
    "FewShotClassifier",
    "Selection",
    "Support",
    "create",
    "find",
    "load",
    "methods",
    "select",
]

_MODULES = {
    "METHODS": "adapt.adapters.registry",
    "TRAINING_FREE": "adapt.adapters.registry",
    "Adapter": "adapt.adapters.base",
    "Classifier": "adapt.adapters.base",
    "Encoder": "adapt.embedding.encoder",
    "FewShotClassifier": "adapt.estimators.few_shot_classifier",
    "Selection": "adapt.model_selection.hyperparameters",
    "Support": "adapt.adapters.support",
    "create": "adapt.adapters.registry",
    "find": "adapt.adapters.registry",
    "load": "adapt.adapters.serialization",
    "methods": "adapt.adapters.registry",
    "select": "adapt.model_selection.hyperparameters",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'adapt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

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
- `isoclip_projection(checkpoint)` is a matrix that makes image embeddings of a CLIP better for comparing images.
- `nearest(features, queries, k)` finds the nearest rows of stored features that do not fit in memory.
- `Support` is a support set as a pytree, for `adapter.fit_support` inside compiled functions.

docs/guides/adapters.md compares the methods, docs/guides/extending.md shows how to write one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.embedding.encoder import Encoder
    from adapt.embedding.isoclip import isoclip_projection
    from adapt.embedding.nearest import nearest
    from adapt.estimators.few_shot_classifier import FewShotClassifier
    from adapt.public_names import (
        METHODS,
        TRAINING_FREE,
        Adapter,
        Classifier,
        Selection,
        Support,
        create,
        find,
        load,
        methods,
        select,
    )

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
    "isoclip_projection",
    "load",
    "methods",
    "nearest",
    "select",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: JAX takes a second, and other names bring in Flax or scikit-learn."""
    if name == "Encoder":
        from adapt.embedding.encoder import Encoder

        return Encoder
    if name == "FewShotClassifier":
        from adapt.estimators.few_shot_classifier import FewShotClassifier

        return FewShotClassifier
    if name == "isoclip_projection":
        from adapt.embedding.isoclip import isoclip_projection

        return isoclip_projection
    if name == "nearest":
        from adapt.embedding.nearest import nearest

        return nearest
    if name in __all__:
        from adapt import public_names

        return getattr(public_names, name)
    raise AttributeError(f"module 'adapt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

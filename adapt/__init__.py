"""Few-shot adaptation of pretrained checkpoints: from a few labelled images per class to a classifier.

    import adapt

    encoder = adapt.Encoder("runs/mine/export")
    support_features = encoder.embed_images(support_images)  # PIL images, arrays or paths
    adapter = adapt.create("tip_adapter", alpha=1.0, beta=5.5)
    classifier = adapter.fit(support_features, support_labels, class_text_features=class_text_features)
    logits = classifier(query_features)  # [queries, classes]; also classifier.predict, classifier.predict_proba

The public names:

- `create(method, **settings)` returns an `Adapter`; `adapter.fit(...)` returns a `Classifier`.
- `select(method, ...)` chooses the settings of a method on the support set and returns a `Selection`.
- `load(folder)` opens a classifier that `classifier.save(folder)` wrote.
- `methods()` describes all methods; `find(method)` returns the class of one. `METHODS` maps method names to classes,
  `TRAINING_FREE` lists the methods without gradient descent.
- `Encoder(checkpoint)` embeds images and texts.
- `Support` is a support set as a pytree, for `adapter.fit_support` inside compiled functions.

docs/guides/adapters.md compares the methods, docs/guides/extending.md shows how to write one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.embedding.encoder import Encoder
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
    "Selection",
    "Support",
    "create",
    "find",
    "load",
    "methods",
    "select",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: JAX takes a second, and `Encoder` also brings in Flax and the models."""
    if name == "Encoder":
        from adapt.embedding.encoder import Encoder

        return Encoder
    if name in __all__:
        from adapt import public_names

        return getattr(public_names, name)
    raise AttributeError(f"module 'adapt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Open a checkpoint to embed images and texts, or to sort images into classes."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapt.embedding.encoder import Encoder


logger = logging.getLogger(__name__)


def sort_photos(
    checkpoint: str | None,
    *,
    support: str | None,
    query: str | None,
    out: pathlib.Path,
    features: str | None = None,
    method: str = "auto",
    template: Sequence[str] | None = None,
    placement: str | None = None,
    dtype: str | None = None,
    image_size: int | None = None,
    max_patches: int | None = None,
    tokenizer: str | None = None,
    canonicalize: str | None = None,
) -> None:
    """Sort images into the classes of the example images, or stored features into those of labelled ones."""
    if features is not None:
        _sort_features(features, query=query, out=out, method=method, with_texts=template is None)
        return
    from adapt.photos.pipeline import SortingTask
    from adapt.photos.pipeline import sort_photos as run
    from foundation.progress import ProgressBars

    templates = tuple(template) if template else None
    task = SortingTask(
        support=support,
        query=query,
        out=out,
        method=method,
        templates=() if templates == ("none",) else templates,
        placement=placement,
    )
    task.check()
    size = {"image_size": image_size, "max_patches": max_patches}
    encoder = open_encoder(checkpoint, dtype=dtype, **size, tokenizer=tokenizer, canonicalize=canonicalize)
    run(encoder, task, progress=ProgressBars().show)


def _sort_features(features: str, *, query: str | None, out: pathlib.Path, method: str, with_texts: bool) -> None:
    from adapt.photos.stored_features import FeatureSortingTask, sort_features

    sort_features(FeatureSortingTask(features=features, query=query, out=out, method=method, with_texts=with_texts))


def embed(
    checkpoint: str,
    *,
    out: pathlib.Path,
    images: str | None = None,
    texts: str | None = None,
    image_features: str | None = None,
    text_features: str | None = None,
    data_dir: str = "runs/data",
    shard: str = "0/1",
    dtype: str | None = None,
    image_size: int | None = None,
    max_patches: int | None = None,
    tokenizer: str | None = None,
    canonicalize: str | None = None,
) -> None:
    """Write the embeddings of images, texts or both, or of a shard of their rows."""
    from adapt.embedding.export import check_inputs, embed_collections
    from foundation.progress import ProgressBars
    from foundation.shard import Shard

    part = Shard.parse(shard)
    features = {"image_features": image_features, "text_features": text_features}
    check_inputs(out, images, texts, data_dir, **features)
    size = {"image_size": image_size, "max_patches": max_patches}
    encoder = open_encoder(checkpoint, dtype=dtype, **size, tokenizer=tokenizer, canonicalize=canonicalize)
    progress = ProgressBars().show
    written = embed_collections(
        encoder, out, images=images, texts=texts, **features, data_dir=data_dir, shard=part, progress=progress
    )
    for name, found in written.items():
        skipped = f", {found.bad} skipped, see {found.files['bad']}" if found.bad else ""
        logger.info(f"{found.rows} {name} in {found.files['safetensors']}{skipped}")


def open_encoder(
    checkpoint: str,
    *,
    dtype: str | None,
    image_size: int | None,
    max_patches: int | None,
    tokenizer: str | None,
    canonicalize: str | None,
) -> Encoder:
    """Open a checkpoint for embedding."""
    import jax

    from adapt.embedding.encoder import Encoder

    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    options = {"image_size": image_size, "max_patches": max_patches}
    options |= {"tokenizer": tokenizer, "canonicalize": canonicalize}
    encoder = Encoder(checkpoint, dtype=dtype, **options)
    most = encoder.max_patches
    patches = "" if most is None else f", images of any aspect ratio with up to {most} patches"
    logger.info(f"{checkpoint}: {encoder.dim} dimensions{patches}, {dtype}, {jax.device_count()} device(s)")
    return encoder

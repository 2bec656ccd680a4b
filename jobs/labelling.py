"""Label a folder of pictures on a web page."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from jobs.embedding import open_encoder


def label(
    checkpoint: str,
    *,
    images: str,
    out: pathlib.Path,
    classes: str | None = None,
    template: Sequence[str] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    no_browser: bool = False,
    dtype: str | None = None,
    image_size: int | None = None,
    max_patches: int | None = None,
    tokenizer: str | None = None,
    canonicalize: str | None = None,
) -> None:
    """Serve a page on which a person labels the pictures of a folder, until the process is interrupted."""
    from adapt.labelling.class_names import parse_class_names
    from adapt.labelling.job import LabellingTask, label_pictures

    templates = tuple(template) if template else None
    task = LabellingTask(
        images=images,
        out=out,
        class_names=tuple(parse_class_names(classes)),
        templates=() if templates == ("none",) else templates,
        host=host,
        port=port,
        open_browser=not no_browser,
    )
    task.check()
    size = {"image_size": image_size, "max_patches": max_patches}
    encoder = open_encoder(checkpoint, dtype=dtype, **size, tokenizer=tokenizer, canonicalize=canonicalize)
    label_pictures(encoder, task)

"""Texts that describe a class, with `{}` for its name."""

from __future__ import annotations

import logging

from adapt.embedding.encoder import Encoder
from data.fewshot.labelled import DEFAULT_TEMPLATE

logger = logging.getLogger(__name__)


def check_template(template: str) -> None:
    """Raise `ValueError` for a template without `{}`."""
    try:
        valid = "\0" in template.format("\0")
    except (ValueError, IndexError, KeyError, AttributeError):
        valid = False
    if not valid:
        raise ValueError(
            f"template {template!r} has no {{}} for the class name. Write for example {DEFAULT_TEMPLATE!r}, or only "
            "--template=none to ignore the class names."
        )


def choose_templates(encoder: Encoder, templates: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the given templates, or the default: `DEFAULT_TEMPLATE`, or none for a checkpoint that embeds images only.

    Raises `ValueError` for templates where the checkpoint embeds images only or has no tokenizer.
    """
    if not encoder.embeds_texts:
        if templates:
            raise ValueError(
                f"{encoder.name} embeds images only, so --template={templates[0]} cannot be used. Leave it out, or use "
                "a checkpoint that embeds texts, too."
            )
        logger.info(f"{encoder.name} embeds images only: class names are not used")
        return ()
    chosen = (DEFAULT_TEMPLATE,) if templates is None else templates
    if chosen:
        _check_tokenizer(encoder)
    if templates is None:
        logger.info(
            f"class texts: {DEFAULT_TEMPLATE!r}. For drawings and other pictures than photos, pass for example "
            "--template='a drawing of a {}.'"
        )
    return chosen


def _check_tokenizer(encoder: Encoder) -> None:
    try:
        _ = encoder.tokenizer
    except (ValueError, OSError) as error:
        reason = str(error).partition("\n")[0].partition(";")[0]
        raise ValueError(
            f"class names need a tokenizer ({reason}). Set --tokenizer=FOLDER, or classify by images alone with "
            "--template=none."
        ) from error

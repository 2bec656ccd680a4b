"""The `text` section of a config: settings of a text tower that depend on its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.settings import build
from models.config import TextSettings
from models.text.tokenizer import Tokenizer, open_tokenizer
from pretrain.config.data import TokenizerSettings


def max_vocab_size(section: Mapping[str, Any], tokenizer: TokenizerSettings) -> int:
    """Return the largest possible number of token ids; captions need not exist yet. Opens an existing tokenizer."""
    if section.get("vocab_size") is not None:
        return section["vocab_size"]
    return tokenizer.trained_size or open_tokenizer(tokenizer.name, length=section["length"]).vocab_size


def text_settings_for(section: Mapping[str, Any], tokenizer: Tokenizer) -> TextSettings:
    """Return the settings of the text tower for a tokenizer; raises `ValueError` if it does not fit them."""
    if section.get("pooling") == "end" and "end_id" not in section:
        truncated = tokenizer(["a " * section["length"]])[0]
        if tokenizer.end_id is None or tokenizer.end_id not in truncated:
            raise ValueError(
                "text.pooling is 'end', but the tokenizer does not end truncated texts with an end token. Set "
                "text.pooling to 'last'."
            )
    return text_settings(section, tokenizer.vocab_size, tokenizer.end_id)


def text_settings(section: Mapping[str, Any], vocab_size: int, end_id: int | None = None) -> TextSettings:
    """Return the settings of the text tower for `vocab_size` token ids; `end_id` ends texts."""
    values = {"vocab_size": vocab_size, **section}
    if values.get("pooling") == "end":
        values.setdefault("end_id", end_id)
    text = build(TextSettings, "text", values)
    if text.vocab_size < vocab_size:
        raise ValueError(
            f"text.vocab_size is {text.vocab_size:,}, but the tokenizer has {vocab_size:,} token ids. Increase or "
            "remove it."
        )
    return text

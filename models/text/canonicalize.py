"""Canonicalization of texts before tokenization, as normalizers that `tokenizer.json` stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from foundation.suggestions import unknown_name

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer

# Cased letters that are neither marks nor modifiers, which Unicode (section 3.13) uses to find a word-final sigma.
_CASED = r"[\p{Lu}\p{Ll}\p{Lt}ªºⅠ-ⅿⒶ-ⓩ🄰-🅉🅐-🅩🅰-🆉]"
_FINAL_SIGMA = rf"(?<={_CASED}\p{{Case_Ignorable}}*)Σ(?!\p{{Case_Ignorable}}*{_CASED})"


def lower() -> list[Normalizer]:
    """Return the normalizers that convert to lower case and nothing else, as SigLIP 2 was trained.

    Lower case is that of Python, where a sigma at the end of a word becomes ς.
    """
    from tokenizers import Regex
    from tokenizers.normalizers import Lowercase, Replace

    return [Replace(Regex(_FINAL_SIGMA), "ς"), Lowercase()]


def whitespace() -> list[Normalizer]:
    """Return the normalizers that collapse whitespace and strip it at both ends, open_clip's `whitespace`."""
    from tokenizers import Regex
    from tokenizers.normalizers import Replace, Strip

    return [Replace(Regex(r"[\s\x1c-\x1f]+"), " "), Strip()]


def whitespace_lower() -> list[Normalizer]:
    """Return the normalizers of open_clip's `lower`: `whitespace`, then lower case."""
    return [*whitespace(), *lower()]


def whitespace_underscore() -> list[Normalizer]:
    """Return the normalizers of open_clip's `whitespace_underscore`: underscores as spaces, then `whitespace`."""
    from tokenizers.normalizers import Replace

    return [Replace("_", " "), *whitespace()]


def siglip() -> list[Normalizer]:
    """Return the normalizers that equal `SiglipTokenizer.canonicalize_text` of transformers.

    They convert to lower case, remove ASCII punctuation, collapse whitespace and strip it at both ends.
    """
    from tokenizers import Regex
    from tokenizers.normalizers import Replace

    return [*lower(), Replace(Regex(r"[!-/:-@\[-`{-~]"), ""), *whitespace()]


def open_clip() -> list[Normalizer]:
    """Return the normalizers that open_clip and big_vision use for SigLIP: `siglip`, with underscores as spaces."""
    from tokenizers.normalizers import Replace

    return [Replace("_", " "), *siglip()]


CANONICALIZATIONS: dict[str, Callable[[], list[Normalizer]]] = {
    "none": list,
    "lower": lower,
    "siglip": siglip,
    "open_clip": open_clip,
    "whitespace": whitespace,
    "whitespace_lower": whitespace_lower,
    "whitespace_underscore": whitespace_underscore,
}


def canonicalization(name: str) -> list[Normalizer]:
    """Return the normalizers of one of `CANONICALIZATIONS`; raise `ValueError` for an unknown name."""
    if name not in CANONICALIZATIONS:
        raise ValueError(unknown_name("canonicalize", name, CANONICALIZATIONS))
    return CANONICALIZATIONS[name]()

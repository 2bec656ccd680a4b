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


def siglip() -> list[Normalizer]:
    """Return the normalizers that equal `SiglipTokenizer.canonicalize_text` of transformers.

    They convert to lower case, remove ASCII punctuation, collapse whitespace and strip it at both ends. Lower case is
    that of Python, where a sigma at the end of a word becomes ς.
    """
    from tokenizers import Regex
    from tokenizers.normalizers import Lowercase, Replace, Strip

    return [
        Replace(Regex(_FINAL_SIGMA), "ς"),
        Lowercase(),
        Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        Replace(Regex(r"[\s\x1c-\x1f]+"), " "),
        Strip(),
    ]


def open_clip() -> list[Normalizer]:
    """Return the normalizers that open_clip and big_vision use for SigLIP: `siglip`, with underscores as spaces."""
    from tokenizers.normalizers import Replace

    return [Replace("_", " "), *siglip()]


CANONICALIZATIONS: dict[str, Callable[[], list[Normalizer]]] = {
    "none": list,
    "siglip": siglip,
    "open_clip": open_clip,
}


def canonicalization(name: str) -> list[Normalizer]:
    """Return the normalizers of one of `CANONICALIZATIONS`; raise `ValueError` for an unknown name."""
    if name not in CANONICALIZATIONS:
        raise ValueError(unknown_name("canonicalize", name, CANONICALIZATIONS))
    return CANONICALIZATIONS[name]()

"""What is done to a text before its tokenizer sees it, as normalizers that `tokenizer.json` stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer

# Letters with case that are no marks or modifiers, by which Unicode (section 3.13) tells a word's last sigma.
_CASED = r"[\p{Lu}\p{Ll}\p{Lt}ªºⅠ-ⅿⒶ-ⓩ🄰-🅉🅐-🅩🅰-🆉]"
_LAST_SIGMA = rf"(?<={_CASED}\p{{Case_Ignorable}}*)Σ(?!\p{{Case_Ignorable}}*{_CASED})"


def siglip() -> list[Normalizer]:
    """Returns what `SiglipTokenizer.canonicalize_text` of transformers does: lower case, no ASCII punctuation, single
    spaces and none around. Lower case is that of Python, where a sigma ends a word as ς.
    """
    from tokenizers import Regex
    from tokenizers.normalizers import Lowercase, Replace, Strip

    return [
        Replace(Regex(_LAST_SIGMA), "ς"),
        Lowercase(),
        Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        Replace(Regex(r"[\s\x1c-\x1f]+"), " "),
        Strip(),
    ]


def open_clip() -> list[Normalizer]:
    """Returns what open_clip and big_vision do to texts for SigLIP: as `siglip`, with a space for an underscore."""
    from tokenizers.normalizers import Replace

    return [Replace("_", " "), *siglip()]


CANONICALIZATIONS: dict[str, Callable[[], list[Normalizer]]] = {
    "none": list,
    "siglip": siglip,
    "open_clip": open_clip,
}


def canonicalization(name: str) -> list[Normalizer]:
    """Returns the normalizers of one of `CANONICALIZATIONS`; raises `ValueError` for an unknown name."""
    if name not in CANONICALIZATIONS:
        raise ValueError(f"unknown canonicalize {name!r}; known: {', '.join(CANONICALIZATIONS)}")
    return CANONICALIZATIONS[name]()

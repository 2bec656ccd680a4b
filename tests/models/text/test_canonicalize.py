"""Canonicalization equals that of the SigLIP tokenizer of transformers."""

import random
import re
import string
import unicodedata

import pytest
from tokenizers import normalizers

from models.text.canonicalize import CANONICALIZATIONS, canonicalization
from tests.models.tokenizer_families import TEXTS

SIGMAS = "ΣΣσAaΑ'.!:·_ʰªⅫⒶ\u01c5\u0301\u00ad\u0345 \tİı\u1e9e\x1c\x85\u200b\u3000日"


def siglip(text):
    """Do what `SiglipTokenizer.canonicalize_text` does, which cannot be imported without sentencepiece."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text).strip()


def ours(text):
    return normalizers.Sequence(canonicalization("siglip")).normalize_str(text)


def test_reference_equals_transformers():
    from transformers import SiglipTokenizer

    theirs = object.__new__(SiglipTokenizer)
    theirs.do_lower_case = True
    assert [theirs.canonicalize_text(text) for text in TEXTS] == [siglip(text) for text in TEXTS]


def test_every_character_of_the_basic_plane_equals_the_reference():
    known = [chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")]
    assert len(known) > 50_000
    normalizer = normalizers.Sequence(canonicalization("siglip"))
    for first in range(0, len(known), 20):
        text = " ".join(f"{c} x{c}Y Σ{c} {c}Σ αΣ{c}Α" for c in known[first : first + 20])
        assert normalizer.normalize_str(text) == siglip(text), f"among {known[first]!a} and the next 20"


def test_texts_and_random_strings_equal_the_reference():
    rng = random.Random(0)
    strings = ["".join(rng.choices(SIGMAS, k=rng.randrange(9))) for _ in range(5000)]
    for text in (*TEXTS, string.printable, *strings):
        assert ours(text) == siglip(text), ascii(text)


REFERENCES = {
    "none": lambda text: text,
    "lower": str.lower,
    "siglip": siglip,
    "open_clip": lambda text: siglip(text.replace("_", " ")),
    "whitespace": lambda text: " ".join(text.split()),
    "whitespace_lower": lambda text: " ".join(text.split()).lower(),
    "whitespace_underscore": lambda text: " ".join(text.replace("_", " ").split()),
}


@pytest.mark.parametrize("name", CANONICALIZATIONS)
def test_every_canonicalization_equals_its_reference(name):
    rng = random.Random(1)
    strings = ["".join(rng.choices(SIGMAS + "_", k=rng.randrange(9))) for _ in range(1000)]
    normalizer = normalizers.Sequence(canonicalization(name))
    for text in (*TEXTS, string.printable, *strings):
        assert normalizer.normalize_str(text) == REFERENCES[name](text), ascii(text)


def test_unknown_canonicalization_is_rejected():
    with pytest.raises(ValueError, match=r"unknown canonicalize 'upper'\. Known: none, lower, siglip"):
        canonicalization("upper")

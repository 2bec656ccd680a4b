"""Texts have the token ids of open_clip's tokenizers. Skipped if open_clip is not installed.

`requirements-bench.txt` installs it.
"""

import numpy as np
import pytest

try:
    import open_clip
except (ImportError, RuntimeError) as missing:  # torchvision raises RuntimeError if it does not match torch
    pytest.skip(f"open_clip cannot be imported ({missing}); install requirements-bench.txt", allow_module_level=True)

from transformers import AutoTokenizer, CLIPTokenizer

from models.checkpoints.open_clip import _CLEAN
from models.text.tokenizer import Tokenizer
from tests.models.text.test_repair import REPAIRED

LENGTH = 77
TEXTS = [
    *REPAIRED,
    *REPAIRED.values(),
    *(
        "",
        " Red \t APPLE\n",
        "a photo of a_red apple!",
        "it's 3 o'clock",
        "日本語 👍🏽",
        "ΟΔΟΣ İstanbul",
        "word " * 100,
    ),
    *("AT&T &copy; 2020 &#39;x&#39;", "caf\u00e9 cafe\u0301", "don‘t …", "½ ² №", "\u200bzero\u200d width\ufeff"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write the vocabulary of CLIP, which open_clip contains, as a tokenizer of transformers."""
    theirs = open_clip.SimpleTokenizer()
    merges = sorted(theirs.bpe_ranks, key=theirs.bpe_ranks.get)
    path = tmp_path_factory.mktemp("clip")
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in theirs.encoder.items()}
    CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(path)
    return path


def test_clip_texts_have_the_ids_of_open_clip(folder):
    ours = Tokenizer(AutoTokenizer.from_pretrained(folder), length=LENGTH, canonicalize="whitespace_lower", repair=True)
    theirs = open_clip.SimpleTokenizer(context_length=LENGTH)
    for text in TEXTS:
        expected, found = theirs([text])[0].numpy(), ours([text])[0]
        end = expected.argmax() + 1  # the padding differs: it is behind the end token
        np.testing.assert_array_equal(found[:end], expected[:end], err_msg=repr(text))


@pytest.mark.parametrize("clean", ["canonicalize", "lower", "whitespace"])
def test_texts_of_other_tokenizers_have_the_ids_of_open_clip(folder, clean):
    ours = Tokenizer(AutoTokenizer.from_pretrained(folder), length=LENGTH, canonicalize=_CLEAN[clean], repair=True)
    theirs = open_clip.tokenizer.HFTokenizer(str(folder), context_length=LENGTH, clean=clean)
    for text in TEXTS:
        np.testing.assert_array_equal(ours([text]), theirs([text]).numpy(), err_msg=repr(text))

"""Texts are repaired as open_clip does, in its format only, and so by exports of its checkpoints."""

import html
import pickle
import string

import ftfy
import numpy as np
import pytest
from transformers import AutoTokenizer

from models.text.repair import repair_text
from models.text.tokenizer import load_tokenizer
from tests.models.public_layouts import LENGTH, clip_of_open_clip, huggingface, siglip_of_open_clip, vocabulary
from tests.models.text.test_preparation import opened

REPAIRED = {
    "flag: CÃ´te": "flag: Côte",  # UTF-8 that was read as Latin-1
    "man’s “shoe”": 'man\'s "shoe"',
    "ﬂag": "flag",
    "ｆｌａｇ": "flag",
    "a &amp; b": "a & b",
    "a &amp;amp; b": "a & b",
    "red &lt;apple&gt;": "red <apple>",
    "Co\u0302te": "Côte",
    "red\x00apple\x1b[0m": "redapple",
    "\u2028 red apple\r\n": "red apple",
}
CLASSES = {"clip": {"tokenizer_class": "CLIPTokenizer"}, "siglip": {}}
OPEN_CLIP = {"clip": lambda at: clip_of_open_clip(at, vocab_size=70), "siglip": siglip_of_open_clip}


def reference(text):
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


@pytest.mark.parametrize("text", [*REPAIRED, *REPAIRED.values(), "", " a ", "a\tb", "Straße 👍", "AT&T", "&", "a\x7f"])
def test_repaired_texts_are_those_of_ftfy_and_html(text):
    assert repair_text(text) == reference(text)
    assert repair_text(text) == REPAIRED.get(text, repair_text(text))


def test_printable_ascii_is_returned_as_ftfy_returns_it():
    rng = np.random.default_rng(0)
    letters = list(string.printable)
    for _ in range(500):
        text = "".join(rng.choice(letters, 12))
        assert repair_text(text) == reference(text), repr(text)


@pytest.mark.parametrize("family", OPEN_CLIP)
def test_texts_of_open_clip_are_repaired_here_and_by_exports(tmp_path, family):
    folder = vocabulary(OPEN_CLIP[family](tmp_path / "model"), family, raw=False)
    tokenizer, message = opened(folder)
    assert "broken Unicode and HTML entities are repaired, as by open_clip" in message
    plain, _ = opened(vocabulary(huggingface(tmp_path / "plain", family), family, raw=False, **CLASSES[family]))
    found, expected = tokenizer(list(REPAIRED)), tokenizer(list(REPAIRED.values()))
    np.testing.assert_array_equal(found, expected)
    assert (plain(list(REPAIRED)) != plain(list(REPAIRED.values()))).any()
    tokenizer.save(tmp_path / "saved")
    for each in (load_tokenizer(tmp_path / "saved", length=LENGTH), pickle.loads(pickle.dumps(tokenizer))):
        np.testing.assert_array_equal(each(list(REPAIRED)), expected)
        np.testing.assert_array_equal([each.encode(text) for text in REPAIRED], expected)
    load_tokenizer(tmp_path / "saved", length=LENGTH).save(tmp_path / "again")
    np.testing.assert_array_equal(load_tokenizer(tmp_path / "again", length=LENGTH)(list(REPAIRED)), expected)
    other = AutoTokenizer.from_pretrained(tmp_path / "saved")  # without the repair, but otherwise the same
    theirs = other([repair_text(text) for text in REPAIRED], padding="max_length", truncation=True)["input_ids"]
    np.testing.assert_array_equal(theirs, expected)


def test_the_repair_is_part_of_the_fingerprint_and_can_be_turned_off(tmp_path):
    folder = vocabulary(OPEN_CLIP["clip"](tmp_path / "model"), "clip", raw=False)
    (on, _), (off, message) = opened(folder), opened(folder, canonicalize="none")
    assert on.repairs and not off.repairs and "repaired" not in message
    kept, message = opened(folder, canonicalize="whitespace_lower")
    assert kept.repairs and "repaired" in message and on.fingerprint == kept.fingerprint != off.fingerprint
    assert (off(["man’s"]) != on(["man’s"])).any()


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_texts_of_transformers_have_the_ids_of_transformers(tmp_path, family):
    model_type = "clip" if family == "clip" else "siglip"
    classes = {"clip": "CLIPTokenizer", "siglip": "T5Tokenizer", "siglip2": "GemmaTokenizer"}
    folder = vocabulary(
        huggingface(tmp_path / "model", model_type), family, raw=family == "siglip2", tokenizer_class=classes[family]
    )
    tokenizer, message = opened(folder)
    assert not tokenizer.repairs and "repaired" not in message
    tokenizer.save(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = [*REPAIRED, *REPAIRED.values()]
    found = theirs(texts, padding="max_length", truncation=True)["input_ids"]
    np.testing.assert_array_equal(found, tokenizer(texts))

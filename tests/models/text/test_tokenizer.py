"""Tokenizers trained on captions, compared with transformers opening their files."""

import json
import unicodedata

import numpy as np
import pytest

from models.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

CAPTIONS = ["Face with tears of joy", "flag: Côte d’Ivoire", "man’s shoe", "red apple, fruit", "thumbs up 👍"]
QUERIES = ["A RED apple!", "", "côte", "日本語", "👍", "word " * 200, "  spaced\tout  "]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS, vocab_size=90, length=8)


def test_transformers_gives_the_same_ids(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    encoded = theirs(QUERIES, padding="max_length", truncation=True)
    np.testing.assert_array_equal(tokenizer(QUERIES), encoded["input_ids"])
    assert set(encoded) == {"input_ids"}


def test_saved_tokenizer_opens_unchanged(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    np.testing.assert_array_equal(load_tokenizer(tmp_path, length=8)(QUERIES), tokenizer(QUERIES))


def test_saved_tokenizer_opens_without_the_configs_of_all_models(tokenizer, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    expected = Tokenizer(AutoTokenizer.from_pretrained(tmp_path), length=8)
    monkeypatch.setattr("transformers.AutoTokenizer", None)
    assert load_tokenizer(tmp_path, length=8).fingerprint == expected.fingerprint


def test_texts_end_with_and_are_padded_with_the_end_token(tokenizer):
    ids = tokenizer(QUERIES)
    assert ids.shape == (len(QUERIES), 8) and ids.dtype == np.int32
    assert (ids[:, -1] == tokenizer.end_id).all()
    np.testing.assert_array_equal(tokenizer.encode(QUERIES[0]), ids[0])


def test_case_punctuation_and_unicode_form_do_not_matter(tokenizer):
    np.testing.assert_array_equal(*tokenizer(["Red, apple!", "red apple"]))
    np.testing.assert_array_equal(*tokenizer(["côte", unicodedata.normalize("NFD", "Côte")]))
    assert not np.array_equal(*tokenizer(["red apple", "red face"]))


def test_without_canonicalization_case_and_punctuation_matter():
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=90, length=8, canonicalize="none")
    assert len({ids.tobytes() for ids in tokenizer(["red apple", "Ned apple", "red, apple"])}) == 3


def test_special_token_ids(tokenizer):
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id) == (None, 0, 0)
    assert tokenizer(QUERIES).max() < tokenizer.vocab_size <= 90


def test_saved_config_is_compatible_with_transformers_4(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and config["model_max_length"] == 8


def test_the_order_of_captions_does_not_matter(tokenizer):
    other = train_tokenizer(CAPTIONS[::-1] * 2, vocab_size=90, length=8)
    np.testing.assert_array_equal(other(CAPTIONS), tokenizer(CAPTIONS))


def test_an_unpaired_surrogate_is_one_sentence():
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=120, length=8)
    with pytest.raises(ValueError, match=r"the text '\\ud800' contains an unpaired surrogate"):
        tokenizer(["red apple", "\ud800"])

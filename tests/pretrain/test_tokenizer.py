"""The tokenizer of a run is trained on its captions, or an existing one is copied to the run."""

import numpy as np
import pytest

from data.sources.base import BadRecord
from foundation.settings import build
from models.text.tokenizer import open_tokenizer, train_tokenizer
from pretrain.config.run import TokenizerSettings, read_settings
from pretrain.input_pipeline import prepare_tokenizer, read_captions
from tests.models.public_layouts import huggingface, vocabulary
from tests.models.tokenizer_families import CAPTIONS, FAMILIES, TEXTS
from tests.pretrain import tiny


class Captions:
    """A source of captions; the record in the middle cannot be read."""

    def __len__(self):
        return len(CAPTIONS) + 1

    def texts(self, index):
        if index == len(CAPTIONS) // 2:
            raise BadRecord("no image", "k", "it has none")
        return (CAPTIONS[index - (index > len(CAPTIONS) // 2)],)


@pytest.fixture(scope="module")
def source():
    return Captions()


def test_captions_of_a_large_set_are_evenly_spaced(source):
    assert list(read_captions(source)) == list(CAPTIONS)
    assert list(read_captions(source, limit=2)) == [CAPTIONS[0]]  # the second record cannot be read


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given") / "clip"
    FAMILIES["clip"]().save_pretrained(folder)
    return str(folder)


def settings_of(**tokenizer):
    return read_settings(tiny.config("none", tokenizer=tokenizer))


@pytest.mark.parametrize(("canonicalize", "done"), [(None, "siglip"), ("siglip", "siglip"), ("none", "none")])
def test_a_tokenizer_is_trained_on_the_captions(source, tmp_path, canonicalize, done):
    settings = settings_of(name="train:120", canonicalize=canonicalize)
    ours = prepare_tokenizer(tmp_path / "tokenizer", source, settings)
    expected = train_tokenizer(CAPTIONS, vocab_size=120, length=6, canonicalize=done)
    np.testing.assert_array_equal(ours(TEXTS), expected(TEXTS))
    assert settings.max_vocab_size() == 120 >= ours.vocab_size


@pytest.mark.parametrize(("canonicalize", "done"), [(None, "none"), ("siglip", "siglip")])
def test_an_existing_tokenizer_is_copied_to_the_run(source, tmp_path, given, canonicalize, done):
    settings = settings_of(name=given, canonicalize=canonicalize)
    expected = open_tokenizer(given, length=6, canonicalize=done)
    np.testing.assert_array_equal(prepare_tokenizer(tmp_path / "tokenizer", source, settings)(TEXTS), expected(TEXTS))
    moved = settings_of(name=str(tmp_path / "gone"))
    np.testing.assert_array_equal(prepare_tokenizer(tmp_path / "tokenizer", source, moved)(TEXTS), expected(TEXTS))
    assert settings.max_vocab_size() == expected.vocab_size


@pytest.mark.parametrize(("canonicalize", "same"), [(None, True), ("none", False), ("siglip", True)])
def test_the_tokenizer_of_a_checkpoint_is_prepared_as_it_was_trained_unless_set(source, tmp_path, canonicalize, same):
    start = vocabulary(huggingface(tmp_path / "start", vocab_size=2000), "siglip2", tokenizer_class="GemmaTokenizer")
    config = tiny.config("none", initial_checkpoint=str(start), tokenizer={"canonicalize": canonicalize})
    for section in ("vision", "text", "family", "variant", "preprocessing"):
        config.pop(section, None)
    ours = prepare_tokenizer(tmp_path / "tokenizer", source, read_settings(config))
    rows = ours(["Red APPLE", "red apple"])
    assert (rows[0] == rows[1]).all() == same


@pytest.mark.parametrize("name", ["train:", "train:many", "train:0", "train:-3", "train:1e4"])
def test_an_invalid_number_of_token_ids_raises(name):
    message = f"tokenizer.name is '{name}'; write the number of token ids, as in train:32000"
    with pytest.raises(ValueError, match=message):
        settings_of(name=name)


def test_unknown_tokenizer_settings_raise():
    with pytest.raises(ValueError, match=r"unknown tokenizer.canonicalize 'upper'\. Known: none, lower, siglip"):
        settings_of(name="train:60", canonicalize="upper")
    with pytest.raises(ValueError, match=r"tokenizer.canonicalize is 3; it must be a string or None"):
        settings_of(name="train:60", canonicalize=3)
    with pytest.raises(ValueError, match=r"unknown key tokenizer.vocab_size\. Known: name, canonicalize"):
        build(TokenizerSettings, "tokenizer", {"vocab_size": 60})

"""Tokenizers of every family give the ids of `AutoTokenizer`, also after saving and pickling."""

import itertools
import json
import pickle
import re
import shutil
import string

import numpy as np
import pytest
from transformers import AutoTokenizer

from models.text.tokenizer import load_tokenizer, open_tokenizer
from tests.models.tokenizer_families import FAMILIES, LONG, TEXTS

LENGTHS = (16, 77)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    """A folder written by transformers."""
    folder = tmp_path_factory.mktemp("tokenizers") / request.param
    FAMILIES[request.param]().save_pretrained(folder)
    return folder


def auto(folder):
    """Return the tokenizer of transformers; without a pad token it pads with its end token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def ids(tokenizer, texts=TEXTS, **length):
    return np.array(tokenizer(texts, padding="max_length", truncation=True, **length)["input_ids"])


@pytest.mark.parametrize("length", LENGTHS)
def test_ids_equal_those_of_transformers(folder, length):
    ours, theirs = open_tokenizer(str(folder), length=length), auto(folder)
    expected = ids(theirs, max_length=length)
    np.testing.assert_array_equal(ours(TEXTS), expected)
    np.testing.assert_array_equal([ours.encode(text) for text in TEXTS], expected)
    assert ours(TEXTS).dtype == np.int32 and len({row.tobytes() for row in expected}) > len(TEXTS) - 5
    assert ours.pad_id == theirs.pad_token_id and ours.end_id in (theirs.eos_token_id, theirs.sep_token_id)
    assert expected.max() < ours.vocab_size == len(theirs)


def test_pickled_tokenizer_gives_the_same_ids(folder):
    ours = open_tokenizer(str(folder), length=16)
    copy = pickle.loads(pickle.dumps(ours.encode))
    np.testing.assert_array_equal([copy(text) for text in TEXTS], ours(TEXTS))


@pytest.mark.parametrize("canonicalize", ["none", "siglip"])
@pytest.mark.parametrize("config", [None, {"model_type": "siglip"}])
def test_saved_tokenizer_opens_in_transformers_unchanged(folder, tmp_path, canonicalize, config):
    ours, original = open_tokenizer(str(folder), length=16, canonicalize=canonicalize), auto(folder)
    ours.save(tmp_path)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    np.testing.assert_array_equal(ids(theirs), ours(TEXTS))
    assert (theirs.model_max_length, theirs.padding_side) == (16, original.padding_side)
    assert theirs.special_tokens_map == original.special_tokens_map
    assert set(theirs("a")) == {"input_ids"}  # without a mask, since padding is attended to
    if canonicalize == "none":
        assert type(theirs) is type(original)
    again = load_tokenizer(tmp_path, length=77)
    expected = open_tokenizer(str(folder), length=77, canonicalize=canonicalize)
    np.testing.assert_array_equal(again(TEXTS), expected(TEXTS))
    known = [(t.start_id, t.end_id, t.pad_id, t.vocab_size) for t in (ours, again)]
    assert known[0] == known[1]


def test_canonicalization_applies_before_tokenization(folder):
    plain = open_tokenizer(str(folder), length=16)
    ours = open_tokenizer(str(folder), length=16, canonicalize="siglip")
    canonical = [text.lower().translate(str.maketrans("", "", string.punctuation)) for text in TEXTS]
    canonical = [re.sub(r"\s+", " ", text).strip() for text in canonical]
    np.testing.assert_array_equal(ours(TEXTS), plain(canonical))
    np.testing.assert_array_equal(*ours(["Red, APPLE!", "red\tapple"]))


def test_tokenizer_file_opens_like_its_folder(folder):
    ours = open_tokenizer(str(folder / "tokenizer.json"), length=16)
    np.testing.assert_array_equal(ours(TEXTS), open_tokenizer(str(folder), length=16)(TEXTS))


def tokenizer_of(family, tmp_path, **options):
    FAMILIES[family]().save_pretrained(tmp_path)
    return open_tokenizer(str(tmp_path), **{"length": 16, **options})


def test_clip_adds_start_and_end_tokens(tmp_path):
    clip = tokenizer_of("clip", tmp_path)
    rows = clip(["red apple", LONG, ""])
    assert (rows[:, 0] == clip.start_id).all() and clip.end_id == clip.pad_id == clip.vocab_size - 1
    first_end = rows.argmax(axis=1)
    assert (rows[np.arange(3), first_end] == clip.end_id).all()
    assert first_end[1] == 15 and first_end[2] == 1
    assert (rows[0, first_end[0] :] == clip.pad_id).all()


def test_siglip_pads_with_the_end_token(tmp_path):
    siglip = tokenizer_of("siglip", tmp_path)
    rows = siglip(["red apple", LONG, ""])
    assert siglip.start_id is None and siglip.end_id == siglip.pad_id
    assert (rows[:, -1] == siglip.end_id).all() and (rows[1, :-1] != siglip.end_id).all()


def test_bert_adds_its_special_tokens(tmp_path):
    bert = tokenizer_of("bert", tmp_path)
    assert (bert.start_id, bert.end_id, bert.pad_id) == (2, 3, 0)
    assert bert([LONG])[0, -1] == bert.end_id


def test_file_without_config_pads_with_its_end_token(tmp_path):
    expected = tokenizer_of("clip", tmp_path)(TEXTS)
    shutil.copy(tmp_path / "tokenizer.json", tmp_path / "clip.json")
    alone = open_tokenizer(str(tmp_path / "clip.json"), length=16)
    np.testing.assert_array_equal(alone(TEXTS), expected)


def test_tokenizer_without_pad_or_end_token_is_rejected(tmp_path):
    tokenizer_of("gpt2", tmp_path)
    shutil.copy(tmp_path / "tokenizer.json", tmp_path / "gpt2.json")
    with pytest.raises(ValueError, match=r"gpt2.json' has neither a pad token nor an end token"):
        open_tokenizer(str(tmp_path / "gpt2.json"), length=16)


def test_length_without_room_for_text_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"text.length 2 leaves no room for text: the tokenizer adds 2 special tokens"):
        tokenizer_of("clip", tmp_path, length=2)


@pytest.mark.parametrize("tokenizer_class", ["CLIPTokenizer", "PreTrainedTokenizerFast", "SiglipTokenizer"])
def test_folder_without_a_vocabulary_is_rejected(tmp_path, tokenizer_class):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}))
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json"):
        load_tokenizer(tmp_path, length=16)


def test_damaged_tokenizer_is_rejected(tmp_path):
    tokenizer_of("siglip", tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text()[:-100])
    with pytest.raises(ValueError, match="cannot be opened"):
        load_tokenizer(tmp_path, length=16)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty Hub cache and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "someone/clip",
            r"'someone/clip' does not exist locally, is not cached, and the Hub cannot be reached .* Run `hf download",
        ),
        ("some one/clip", r"'some one/clip' does not exist locally, and is not a valid Hub ID\. Pass an existing path"),
        ("runs/some/folder", r"runs/some/folder does not exist: there is no such file or folder"),
    ],
)
def test_missing_tokenizer_gives_a_one_line_error(offline, name, message):
    with pytest.raises(OSError, match=f"tokenizer {message}") as error:
        open_tokenizer(name, length=16)
    assert "\n" not in str(error.value)


def test_cached_hub_id_opens_without_network(offline, tmp_path):
    expected = tokenizer_of("clip", tmp_path / "clip")(TEXTS)
    repository = offline / "models--someone--clip"
    shutil.copytree(tmp_path / "clip", repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    np.testing.assert_array_equal(open_tokenizer("someone/clip", length=16)(TEXTS), expected)


def test_pure_python_tokenizer_gives_its_ids_and_saves_them(tmp_path):
    import sentencepiece
    from transformers import SiglipTokenizer

    texts = iter(itertools.chain(*itertools.repeat(TEXTS, 3)))
    options = dict(vocab_size=200, hard_vocab_limit=False, pad_id=-1, bos_id=-1, unk_id=0, eos_id=1, minloglevel=2)
    model = tmp_path / "spiece"
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=texts, model_prefix=str(model), **options)
    SiglipTokenizer(str(model.with_suffix(".model"))).save_pretrained(tmp_path / "siglip")
    expected = ids(auto(tmp_path / "siglip"), max_length=16)

    ours = open_tokenizer(str(tmp_path / "siglip"), length=16)
    ours.save(tmp_path / "saved")
    np.testing.assert_array_equal(ours(TEXTS), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours))(TEXTS), expected)
    np.testing.assert_array_equal(ids(AutoTokenizer.from_pretrained(tmp_path / "saved")), expected)
    assert ours.end_id == ours.pad_id == 1 and ours.start_id is None
    canonical = open_tokenizer(str(tmp_path / "siglip"), length=16, canonicalize="siglip")  # as the class does itself
    np.testing.assert_array_equal(canonical(TEXTS), expected)
    with pytest.raises(ValueError, match="SiglipTokenizer is written in Python"):
        open_tokenizer(str(tmp_path / "siglip"), length=16, canonicalize="open_clip")

"""Texts are prepared as every family was trained, in whatever form its checkpoint comes."""

import itertools
import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from models.checkpoints.describe import describe_checkpoint
from models.config import ModelSettings, TextSettings
from models.text.tokenizer import load_tokenizer, train_tokenizer
from tests.logged import logged
from tests.models.public_layouts import (
    LENGTH,
    change_json,
    clip_of_open_clip,
    huggingface,
    npz,
    siglip_of_open_clip,
    vocabulary,
    write_json,
)
from tests.models.tokenizer_families import CAPTIONS

LONG = "red apple, fruit " * 20


GEMMA = {"tokenizer_class": "GemmaTokenizer"}
SIGLIP2_WAYS = {
    "model type siglip, Gemma": lambda at: vocabulary(huggingface(at), "siglip2", **GEMMA),
    "model type siglip, padding on the left": lambda at: vocabulary(
        huggingface(at), "siglip2", **GEMMA, padding_side="left"
    ),
    "model type siglip, Gemma's defaults": lambda at: gemma_with_start(huggingface(at)),
    "model type siglip, class Siglip2Tokenizer": lambda at: vocabulary(
        huggingface(at), "siglip2", raw=False, tokenizer_class="Siglip2Tokenizer"
    ),
    "special tokens of Gemma": lambda at: vocabulary(huggingface(at), "siglip2"),
    "class whose files are missing": lambda at: vocabulary(
        huggingface(at), "siglip2", tokenizer_class="SiglipTokenizer", eos_token="<eos>", pad_token="<pad>"
    ),
    "no tokenizer_config.json": lambda at: vocabulary(huggingface(at), "siglip2", config=False),
    "model type siglip2": lambda at: vocabulary(huggingface(at, "siglip2"), "siglip"),
    "processor": lambda at: vocabulary(huggingface(at), "siglip", processor_class="Siglip2Processor"),
    "source": lambda at: vocabulary(huggingface(at, _name_or_path="google/siglip2-base-patch16-256"), "siglip"),
    "folder": lambda at: vocabulary(huggingface(at / "SigLIP2-base"), "siglip"),
    "folder of the Hub's cache": lambda at: vocabulary(
        huggingface(at / "models--google--siglip2-base-patch16-256" / "snapshots" / "0123"), "siglip"
    ),
    "npz with tokenizer files": lambda at: vocabulary(npz(at / "weights.npz").parent, "siglip2", **GEMMA),
    "npz with tokenizer.json": lambda at: vocabulary(npz(at / "weights.npz").parent, "siglip2", config=False),
    "npz by name": lambda at: named(
        vocabulary(npz(at / "siglip2_b16_256.npz").parent, "siglip"), "siglip2_b16_256.npz"
    ),
    "open_clip": lambda at: vocabulary(
        siglip_of_open_clip(at, tokenizer_kwargs={"clean": "canonicalize"}), "siglip2", **GEMMA
    ),
    "open_clip without options": lambda at: vocabulary(
        siglip_of_open_clip(at, hf_tokenizer_name="timm/ViT-B-16-SigLIP2-256"), "siglip2", **GEMMA
    ),
    "open_clip by the tokenizer's name": lambda at: vocabulary(
        siglip_of_open_clip(at, hf_tokenizer_name="timm/ViT-B-16-SigLIP2-256"), "siglip"
    ),
}


def named(folder, name):
    return folder / name


def gemma_with_start(folder):
    """Write the tokenizer with the defaults of Gemma: a start token, no end token, padding on the left."""
    vocabulary(folder, "siglip2", **GEMMA)
    fields = json.loads((folder / "tokenizer.json").read_text())
    ids = {token: {"id": token, "ids": [fields["model"]["vocab"][token]], "tokens": [token]} for token in ("<bos>",)}
    template = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    fields["post_processor"] |= {"single": template, "special_tokens": ids}
    write_json(folder / "tokenizer.json", fields)
    change_json(folder / "tokenizer_config.json", add_bos_token=True, add_eos_token=False, padding_side="left")
    return folder


SIGLIP_WAYS = {
    "class T5Tokenizer": lambda at: vocabulary(huggingface(at), "t5", raw=False, tokenizer_class="T5Tokenizer"),
    "processor": lambda at: vocabulary(huggingface(at), "siglip", processor_class="SiglipProcessor"),
    "source": lambda at: vocabulary(huggingface(at, _name_or_path="google/siglip-so400m-patch14-384"), "siglip"),
    "npz with tokenizer files": lambda at: vocabulary(npz(at / "webli_en_b16_224.npz").parent, "siglip"),
    "npz with T5's tokenizer": lambda at: vocabulary(
        npz(at / "webli_en_b16_224.npz").parent, "t5", raw=False, tokenizer_class="T5Tokenizer"
    ),
    "open_clip": lambda at: vocabulary(siglip_of_open_clip(at, tokenizer_kwargs={"clean": "canonicalize"}), "siglip"),
    "open_clip without options": lambda at: vocabulary(siglip_of_open_clip(at), "siglip"),
}
CLIP_WAYS = {
    "CLIP": lambda at: vocabulary(huggingface(at, "clip"), "clip", raw=False, tokenizer_class="CLIPTokenizer"),
    "MetaCLIP, generic class": lambda at: vocabulary(huggingface(at, "clip"), "clip", raw=False),
    "CLIP without a normalizer": lambda at: vocabulary(huggingface(at, "clip"), "clip"),
    "DFN in open_clip": lambda at: vocabulary(clip_of_open_clip(at, vocab_size=70), "clip", raw=False),
    "open_clip without a normalizer": lambda at: vocabulary(clip_of_open_clip(at, vocab_size=70), "clip"),
    "open_clip, clean=lower": lambda at: vocabulary(
        clip_of_open_clip(at, hf_tokenizer_name="openai/clip", tokenizer_kwargs={"clean": "lower"}), "clip"
    ),
}


def opened(path, **options):
    """Return the tokenizer, whose vocabulary may be any, and the line in which its preparation is logged."""
    description = describe_checkpoint(path)
    text = TextSettings(**{**vars(description.settings.text), "vocab_size": 2000, "length": LENGTH})
    settings = ModelSettings(vision=description.settings.vision, text=text)
    with logged() as messages:
        tokenizer = description._replace(settings=settings).open_tokenizer(**options)
    line = messages.pop()
    assert all("without the tokenizer's class" in message for message in messages)
    return tokenizer, line


def check_saved(tokenizer, folder):
    """Check that a saved tokenizer gives the same ids here and in transformers."""
    texts = ["Red APPLE, fruit!", "red apple", "", LONG, " a\t b", "snake_case"]
    tokenizer.save(folder)
    np.testing.assert_array_equal(load_tokenizer(folder, length=LENGTH)(texts), tokenizer(texts))
    theirs = AutoTokenizer.from_pretrained(folder)
    found = theirs(texts, padding="max_length", truncation=True)["input_ids"]
    np.testing.assert_array_equal(found, tokenizer(texts))


@pytest.mark.parametrize("way", SIGLIP2_WAYS)
def test_texts_of_siglip2_are_lower_cased_and_end_with_eos(tmp_path, way):
    tokenizer, message = opened(SIGLIP2_WAYS[way](tmp_path / "model"))
    np.testing.assert_array_equal(*tokenizer(["Red APPLE", "red apple"]))
    np.testing.assert_array_equal(*tokenizer(["FLAG: CÔTE", "flag: côte"]))
    kept = "lose" if "open_clip" in way else "keep"
    assert f"texts are lower-cased and {kept} their punctuation (SigLIP 2, known by its" in message
    assert (tokenizer(["red, apple"]) != tokenizer(["red apple"])).any() == (kept == "keep")
    short, long = tokenizer(["red apple", LONG])
    count = int((short != tokenizer.pad_id).sum()) + (tokenizer.pad_id == tokenizer.end_id)
    assert tokenizer.start_id is None and short[count - 1] == tokenizer.end_id == long[-1]
    assert (short[count:] == tokenizer.pad_id).all() and (long[:-1] != tokenizer.end_id).all()
    if tokenizer.pad_id != tokenizer.end_id:
        assert (tokenizer.pad_id, tokenizer.end_id) == (0, 1)
    check_saved(tokenizer, tmp_path / "saved")


@pytest.mark.parametrize("way", SIGLIP_WAYS)
def test_texts_of_siglip_are_canonicalized_and_padded_with_the_end_token(tmp_path, way):
    tokenizer, message = opened(SIGLIP_WAYS[way](tmp_path / "model"))
    np.testing.assert_array_equal(*tokenizer(["Red,  APPLE!", "red apple"]))
    assert "texts are lower-cased and lose their punctuation (SigLIP, known by its" in message
    short, long = tokenizer(["red apple", LONG])
    assert tokenizer.start_id is None and tokenizer.end_id == tokenizer.pad_id == short[-1] == long[-1]
    assert (long[:-1] != tokenizer.end_id).all()
    separated = "open_clip" in way  # open_clip and big_vision's evaluation write a space for an underscore
    np.testing.assert_array_equal(*tokenizer(["red_apple", "red apple" if separated else "redapple"]))
    check_saved(tokenizer, tmp_path / "saved")


@pytest.mark.parametrize("way", CLIP_WAYS)
def test_texts_of_clip_are_lower_cased_and_whitespace_is_collapsed(tmp_path, way):
    tokenizer, message = opened(CLIP_WAYS[way](tmp_path / "model"))
    np.testing.assert_array_equal(*tokenizer([" Red \t APPLE\n", "red apple"]))
    assert (tokenizer(["red, apple"]) != tokenizer(["red apple"])).any()
    assert "texts are lower-cased and keep their punctuation" in message
    short, long = tokenizer(["red apple", LONG])
    assert short[0] == long[0] == tokenizer.start_id == tokenizer.end_id - 1 and long[-1] == tokenizer.end_id
    assert short.max() == tokenizer.end_id and short.argmax() < LENGTH - 1
    check_saved(tokenizer, tmp_path / "saved")


def test_override_decides_for_every_way(tmp_path):
    ways = [*SIGLIP2_WAYS.values(), *SIGLIP_WAYS.values(), *CLIP_WAYS.values()]
    for number, way in enumerate(ways[::3]):
        path = way(tmp_path / str(number))
        tokenizer, message = opened(path, canonicalize="siglip")
        np.testing.assert_array_equal(*tokenizer(["Red, APPLE!", "red apple"]))
        assert "canonicalize is 'siglip'" in message
    raw = SIGLIP2_WAYS["model type siglip, Gemma"](tmp_path / "raw")
    tokenizer, message = opened(raw, canonicalize="none")
    assert (tokenizer(["Red APPLE"]) != tokenizer(["red apple"])).any()
    assert "texts keep their case and keep their punctuation (canonicalize is 'none'" in message
    with pytest.raises(ValueError, match=r"unknown canonicalize 'lowr'.*Did you mean 'lower'"):
        opened(raw, canonicalize="lowr")


@pytest.mark.parametrize(
    ("form", "canonicalize"), [*itertools.product(("huggingface", "npz"), ("none", "siglip", "lower"))]
)
def test_tokenizer_of_a_run_is_left_as_it_was_trained(tmp_path, form, canonicalize):
    folder = huggingface(tmp_path / "siglip2") if form == "huggingface" else npz(tmp_path / "siglip2.npz").parent
    trained = train_tokenizer(CAPTIONS, vocab_size=120, length=LENGTH, canonicalize=canonicalize)
    trained.save(folder)
    texts = ["Red, APPLE!", "red apple", ""]
    description = describe_checkpoint(folder)
    with logged() as messages:
        np.testing.assert_array_equal(description.open_tokenizer()(texts), trained(texts))
    assert not messages


def test_another_tokenizer_is_prepared_as_the_checkpoint_was_trained(tmp_path):
    given = vocabulary(tmp_path / "gemma", "siglip2", **GEMMA, padding_side="left")
    for name in (str(given), str(given / "tokenizer.json")):
        tokenizer, message = opened(npz(tmp_path / "w" / "weights.npz"), name=name)
        np.testing.assert_array_equal(*tokenizer(["Red APPLE", "red apple"]))
        assert "SigLIP 2" in message and tokenizer(["a"])[0, -1] == tokenizer.pad_id == 0


def test_without_a_known_family_the_log_says_what_happens_to_texts_and_what_to_do(tmp_path):
    line = opened(vocabulary(huggingface(tmp_path, "clip"), "siglip"))[1]
    assert "(by its tokenizer alone: " in line and "with --canonicalize" in line


def test_without_a_known_family_in_open_clip_the_log_names_the_config(tmp_path):
    line = opened(vocabulary(clip_of_open_clip(tmp_path), "siglip"))[1]
    assert "(as its open_clip config states; --canonicalize changes it" in line


def test_names_that_only_look_like_siglip2_are_not_taken_for_it(tmp_path):
    for name in ("siglip_256", "siglip-224", "SigLIP-base"):
        path = npz(tmp_path / name / f"{name}.npz")
        vocabulary(path.parent, "siglip")
        assert "(SigLIP, known by its format" in opened(path)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean": "lowr"}, r"unknown text_cfg.tokenizer_kwargs.clean 'lowr'\. Did you mean 'lower'"),
        ({"language": "de"}, r"text_cfg.tokenizer_kwargs \{'language': 'de'\} are not supported"),
    ],
)
def test_unknown_options_of_an_open_clip_tokenizer_are_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        describe_checkpoint(clip_of_open_clip(tmp_path / "model", tokenizer_kwargs=options))


@pytest.mark.parametrize(
    ("clean", "same", "other"),
    [
        ("whitespace", (" Red \t apple", "Red apple"), ("Red", "red")),
        (None, (" Red \t apple", "Red apple"), ("Red", "red")),
        ("whitespace_underscore", ("Red_apple", "Red apple"), ("Red", "red")),
        ("canonicalize", ("Red_apple!", "red apple"), ("red", "apple")),
        ("lower", (" Red \t apple", "red apple"), ("red, apple", "red apple")),
    ],
)
def test_clean_of_open_clip_applies_to_any_tokenizer(tmp_path, clean, same, other):
    options = {} if clean is None else {"tokenizer_kwargs": {"clean": clean}}
    folder = clip_of_open_clip(tmp_path / "model", hf_tokenizer_name="some/tokenizer", **options)
    tokenizer, _ = opened(vocabulary(folder, "gpt2", pad_token="<|endoftext|>"))
    np.testing.assert_array_equal(*tokenizer(same))
    assert (np.diff(tokenizer(other), axis=0) != 0).any()


def test_separator_becomes_padding_if_open_clip_says_so(tmp_path):
    """OpenVision's and CLIPA's text towers were trained without [SEP]."""
    ids, given = {}, vocabulary(tmp_path / "bert", "bert", raw=False, tokenizer_class="BertTokenizer")
    for strip in (False, True):
        options = {"hf_tokenizer_name": "bert-base-uncased", "tokenizer_kwargs": {"strip_sep_token": strip}}
        tokenizer, _ = opened(clip_of_open_clip(tmp_path / str(strip), **options), name=str(given))
        ids[strip] = tokenizer(["Red apple", LONG])
        check_saved(tokenizer, tmp_path / f"saved {strip}")
    assert (ids[False] == 3).any(axis=1).all()
    np.testing.assert_array_equal(ids[True], np.where(ids[False] == 3, 0, ids[False]))

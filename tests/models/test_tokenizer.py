"""The tokenizer and the image preprocessing that travel with a checkpoint, against transformers' own."""

import json

import numpy as np
import pytest
from PIL import Image

from data.images import resize
from models.preprocessing import FILE, Preprocessing, load_preprocessing
from models.tokenizer import load_tokenizer, train_tokenizer

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


def test_saved_and_opened_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    np.testing.assert_array_equal(load_tokenizer(tmp_path, length=8)(QUERIES), tokenizer(QUERIES))


def test_every_text_ends_and_is_padded_with_the_end_token(tokenizer):
    ids = tokenizer(QUERIES)
    assert ids.shape == (len(QUERIES), 8) and ids.dtype == np.int32
    assert (ids[:, -1] == tokenizer.end_id).all()
    np.testing.assert_array_equal(tokenizer.encode(QUERIES[0]), ids[0])


def test_case_and_punctuation_do_not_matter(tokenizer):
    np.testing.assert_array_equal(*tokenizer(["Red, apple!", "red apple"]))
    assert tokenizer.decode(tokenizer.encode("Red, APPLE")) == "red apple"


def test_the_order_of_captions_does_not_matter(tokenizer):
    other = train_tokenizer(CAPTIONS[::-1] * 2, vocab_size=90, length=8)
    np.testing.assert_array_equal(other(CAPTIONS), tokenizer(CAPTIONS))


def test_preprocessing_equals_the_image_processor_of_transformers(tmp_path):
    from transformers import SiglipImageProcessorPil

    preprocessing = Preprocessing(image_size=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.5))
    (tmp_path / FILE).write_text(json.dumps(preprocessing.to_json()))
    assert load_preprocessing(tmp_path) == preprocessing
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, shape, np.uint8)) for shape in ((37, 50, 3), (9, 9, 3), (64, 31, 3))]
    theirs = SiglipImageProcessorPil.from_pretrained(tmp_path)(images, return_tensors="np")["pixel_values"]
    ours = preprocessing.normalize(np.stack([resize(image, 24) for image in images]))
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), atol=1e-6)


def test_preprocessing_that_is_not_done_here_is_refused(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({**Preprocessing(image_size=8).to_json(), "size": {"shortest_edge": 224}}))
    with pytest.raises(ValueError, match="shortest_edge"):
        load_preprocessing(tmp_path)

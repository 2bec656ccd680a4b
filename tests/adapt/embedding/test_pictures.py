"""`embed_images` takes pictures in every usual form, `embed_texts` lists of texts; single ones are refused."""

import io
import pathlib

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from adapt.embedding.encoder import Encoder
from adapt.embedding.pictures import list_pictures, list_texts, open_picture
from models.checkpoints.io import save_checkpoint
from tests.models.tiny_models import tiny_checkpoint

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GRAY = PIXELS[..., 0]
OPAQUE = np.concatenate([PIXELS, np.full((5, 7, 1), 255, np.uint8)], axis=-1)


def encoded(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def turned():
    """Return an image whose EXIF orientation turns it into PIXELS."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return Image.open(io.BytesIO(encoded(np.rot90(PIXELS).copy(), exif=exif)))


class Tensor:
    """An array of another library that has a gradient."""

    def __init__(self, values):
        self.values, self.shape = values, np.shape(values)

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("a tensor that requires a gradient")

    def detach(self):
        return self

    def cpu(self):
        if self.values is None:
            raise RuntimeError("no values")
        return self.values


COLOR = {
    "Pillow RGB": Image.fromarray(PIXELS),
    "Pillow RGBA": Image.fromarray(OPAQUE),
    "Pillow opened file": Image.open(io.BytesIO(encoded(PIXELS))),
    "Pillow with orientation": turned(),
    "array uint8": PIXELS,
    "array with alpha": OPAQUE,
    "array not contiguous": np.asfortranarray(PIXELS),
    "array uint16": PIXELS.astype(np.uint16) * 257,
    "array float32": PIXELS.astype(np.float32) / 255,
    "array float64": PIXELS / 255,
    "array uint16, other byte order": (PIXELS.astype(np.uint16) * 257).astype(">u2"),
    "array bfloat16": (PIXELS / 255).astype(ml_dtypes.bfloat16),
    "tensor with a gradient": Tensor(PIXELS),
    "encoded bytes": encoded(PIXELS),
    "bytearray": bytearray(encoded(PIXELS)),
    "memoryview": memoryview(encoded(PIXELS)),
    "open file": io.BytesIO(encoded(PIXELS)),
}
GRAYS = {
    "Pillow L": Image.fromarray(GRAY),
    "array of two axes": GRAY,
    "array with one channel": GRAY[..., None],
    "array float64": GRAY / 255,
}


@pytest.mark.parametrize("name", COLOR)
def test_every_form_of_a_picture_gives_its_pixels(name):
    for _ in range(2):
        found = np.asarray(open_picture(COLOR[name], 0)).astype(int)
        assert np.abs(found - PIXELS).max() <= (1 if "bfloat16" in name else 0)


@pytest.mark.parametrize("name", GRAYS)
def test_every_form_of_a_gray_picture_gives_its_pixels(name):
    np.testing.assert_array_equal(np.asarray(open_picture(GRAYS[name], 0)), np.stack([GRAY] * 3, axis=-1))


@pytest.mark.parametrize("top", [255, 4095, 65535])
def test_16_bit_arrays_have_the_range_that_holds_them_as_files_do(top):
    values = np.linspace(0, top, 64).reshape(8, 8).astype(np.uint16)
    from_file = open_picture(encoded(values), 0)
    np.testing.assert_array_equal(np.asarray(open_picture(values, 0)), np.asarray(from_file))
    assert np.asarray(from_file).max() == 255


def test_boolean_arrays_are_black_and_white():
    np.testing.assert_array_equal(np.asarray(open_picture(GRAY > 99, 0))[..., 1], (GRAY > 99) * np.uint8(255))


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_paths_are_read(tmp_path, kind):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(PIXELS))
    np.testing.assert_array_equal(np.asarray(open_picture(kind(path), 0)), PIXELS)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (PIXELS.transpose(2, 0, 1), r"image 3 is an array of \[3, 5, 7\].* Move the channels to the last"),
        (PIXELS[None], r"array of \[1, 5, 7, 3\]"),
        (PIXELS[:0], r"array of \[0, 7, 3\]"),
        (PIXELS.astype(np.float32), "array of float32 from .* Convert it to uint8"),
        (PIXELS.astype(np.int64), "array of int64"),
        (np.full((5, 7, 3), np.nan), "array of float64 from nan"),
        (PIXELS / 127.5 - 1, "array of float64 from -1.0"),
        (None, "image 3 has the type NoneType. Pass Pillow images"),
        (PIXELS.astype(object), r"array of object\. Convert it"),
        (PIXELS.astype(complex), r"array of complex128\. Convert it"),
        (np.array([["a", "b"]]), r"array of <U1\. Convert it"),
        (np.zeros((5, 7), "M8[s]"), r"array of datetime64\[s\]\. Convert it"),
        (np.zeros((5, 7), [("r", "u1")]), r"array of \[\('r', 'u1'\)\]\. Convert it"),
        (Tensor(None), r"image 3 cannot be converted to a NumPy array \(no values\)"),
        ("a\0b.png", r"image 3: 'a\\x00b.png' cannot be a path"),
        (b"", "image 3: the image file is empty"),
        (Image.new("RGB", (0, 4)), "image 3: the image has no pixels"),
        ([1, 2], "image 3 has the type list"),
    ],
)
def test_other_arrays_and_objects_are_refused(picture, message):
    with pytest.raises(ValueError, match=message):
        open_picture(picture, 3)


@pytest.mark.parametrize(
    "images",
    [
        *("a.png", b"a.png", bytearray(b"a"), memoryview(b"a"), io.BytesIO(b""), io.BytesIO(b"a"), pathlib.Path("a")),
        *(np.array("a.png"), np.array([["a.png"]]), Image.new("RGB", (2, 2)), PIXELS, GRAY, Tensor(PIXELS)),
        *({"a": 1}, {"a.png"}, 3, None),
    ],
)
def test_a_single_picture_is_refused(images):
    with pytest.raises(ValueError, match="embed_images takes a list of images") as error:
        list_pictures(images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("texts", ["a red apple", b"a red apple", np.array("a red apple"), {"a": 1}, {"a"}, 3, None])
def test_a_single_text_is_refused(texts):
    with pytest.raises(ValueError, match="embed_texts takes a list of texts"):
        list_texts(texts)


@pytest.mark.parametrize("texts", [["a", 3], ["a", None], ["a", ["b"]], ("a", b"b")])
def test_a_list_with_something_else_than_texts_is_refused(texts):
    with pytest.raises(ValueError, match=r"text 1 of the list is .* which is not a string"):
        list_texts(texts)


@pytest.mark.parametrize("wrong", ["\ud800", "a \udc80 b", "\udfff\ud800"])
def test_an_unpaired_surrogate_is_refused(wrong):
    with pytest.raises(ValueError, match=r"text 1 of the list, '.*\\ud.*', contains an unpaired surrogate") as error:
        list_texts(["a", wrong])
    str(error.value).encode()  # can be shown
    assert list_texts(["\U0001f600"]) == ["\U0001f600"]


@pytest.mark.parametrize("kind", [str, object, np.dtypes.StringDType()])
def test_arrays_of_paths_are_lists(tmp_path, kind):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(PIXELS))
    pictures = list_pictures(np.array([str(path), str(path)], kind))
    assert len(pictures) == 2
    np.testing.assert_array_equal(np.asarray(open_picture(pictures[1], 1)), PIXELS)


@pytest.mark.parametrize(
    "texts", [["a", "b"], ("a", "b"), np.array(["a", "b"]), iter(["a", "b"]), dict(a=1, b=2).keys()]
)
def test_every_ordered_collection_of_texts_is_taken(texts):
    assert list_texts(texts) == ["a", "b"] and all(type(text) is str for text in list_texts(["a", "b"]))


def test_lists_give_the_embeddings_of_the_function_form(tmp_path):
    encoder = Encoder(save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip")))
    expected = encoder.embed_images(lambda number: Image.fromarray(PIXELS), 2)
    for images in ([COLOR["encoded bytes"], COLOR["array uint8"]], np.stack([PIXELS, PIXELS]), iter([PIXELS, PIXELS])):
        np.testing.assert_array_equal(encoder.embed_images(images), expected)
    assert encoder.embed_images([]).shape == (0, encoder.dim) and encoder.embed_texts([]).shape == (0, encoder.dim)
    for name in ("array uint8", "Pillow RGBA", "encoded bytes", "open file"):
        np.testing.assert_array_equal(
            encoder.embed_images(lambda number, name=name: COLOR[name], np.int64(2)), expected
        )
    gray = encoder.embed_images(lambda number: GRAYS["Pillow L"], 1)
    np.testing.assert_allclose(gray, encoder.embed_images([GRAY]), atol=1e-6)
    for count in (-1, 1.5, "2"):
        with pytest.raises(ValueError, match=f"count is {count!r}; it must be the number of images"):
            encoder.embed_images(lambda number: PIXELS, count)
    with pytest.raises(ValueError, match="image 0 has the type NoneType"):
        encoder.embed_images(lambda number: None, 1)
    with pytest.raises(ValueError, match=r"Write \['a red apple'\]"):
        encoder.embed_texts("a red apple")
    with pytest.raises(ValueError, match="Pass count"):
        encoder.embed_images(lambda number: None)
    with pytest.raises(ValueError, match="count is 3, but the list has 1 images"):
        encoder.embed_images([PIXELS], 3)

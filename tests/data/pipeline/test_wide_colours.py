"""16-bit colours of every kind, depth, byte order, compression and orientation, as files and as opened images."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.pipeline import value_range
from data.pipeline.image_ops import decode
from data.pipeline.opened_images import as_rgb
from data.sources.base import BadRecord
from tests.data.pipeline.test_pixels import ALPHA, COLOURS, GRAY, HEIGHT, UNDO, WIDTH, chunk, gray, on_white, tiff

HALF = np.where(ALPHA == 255, 255, 102).astype(np.uint8)  # an alpha that all depths store exactly
TOPS = {255: "8 bits", 4095: "12 bits", 65535: None}
CYAN = np.dstack([COLOURS, np.zeros_like(GRAY)])
# The kind of channels → its values in 8 bits, photometric interpretation, ExtraSamples, and the colours on white.
KINDS = {
    "RGB": (COLOURS, 2, None, COLOURS),
    "RGBX": (np.dstack([COLOURS, ALPHA]), 2, 0, COLOURS),
    "RGBa": (np.dstack([np.rint(COLOURS * (HALF[..., None] / 255)), HALF]), 2, 1, on_white(COLOURS, HALF)),
    "RGBA": (np.dstack([COLOURS, HALF]), 2, 2, on_white(COLOURS, HALF)),
    "RGB?": (np.dstack([COLOURS, HALF]), 2, None, on_white(COLOURS, HALF)),
    "CMYK": (CYAN, 5, None, 255 - COLOURS.astype(int)),
    "LA": (np.dstack([GRAY, HALF]), None, None, on_white(gray(GRAY), HALF)),
}
COMPRESSIONS = {"none": 1, "deflate": 8}
FILES = [("png", "", kind) for kind in ("RGB", "RGBA", "LA")]
FILES += itertools.product(("tiff <", "tiff >"), COMPRESSIONS, [kind for kind in KINDS if kind != "LA"])


@pytest.fixture(autouse=True)
def untold():
    value_range._told.clear()


def png(values, orientation=1, transparent=None):
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = chunk(b"IHDR", header) + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    if transparent is not None:
        body += chunk(b"tRNS", np.array(transparent, ">u2").tobytes())
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def stored(kind, top):
    """Return the values of a kind of channels that reach to `top`; premultiplied ones are rounded only once."""
    values = KINDS[kind][0].astype(float)
    if kind == "RGBa":
        values = np.dstack([COLOURS * (HALF[..., None] / 255), HALF])
    return np.rint(values / 255 * top).astype(np.uint16)


def file(form, compression, kind, top, orientation=1):
    values = stored(kind, top)
    if orientation > 1:
        axes = Image.Transpose(UNDO[orientation])
        channels = [Image.fromarray(channel.astype(np.int32)).transpose(axes) for channel in np.moveaxis(values, -1, 0)]
        values = np.dstack([np.asarray(channel) for channel in channels]).astype(np.uint16)
    if form == "png":
        return png(values, orientation)
    order, (_, photometric, extra, _) = form[-1], KINDS[kind]
    height, width = values.shape[:2]
    content = values.astype(f"{order}u2").tobytes()
    tags = {256: (3, [width]), 257: (3, [height]), 278: (3, [height]), 274: (3, [orientation])}
    tags |= {} if extra is None else {338: (3, [extra])}
    tags[259] = (3, [COMPRESSIONS[compression]])
    content = content if compression == "none" else zlib.compress(content)
    return tiff(content, bits=[16] * values.shape[2], photometric=photometric, order=order, extra=tags)


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize(("form", "compression", "kind"), FILES)
def test_16_bit_colours_of_every_kind_have_the_range_that_holds_them(form, compression, kind, top, said):
    content, expected = file(form, compression, kind, top), KINDS[kind][-1]
    found = np.asarray(decode(content, "k"))
    assert np.abs(found.astype(int) - expected).max() <= 1 + 3 * (kind == "RGBa" and top == 255)
    about_range = [line for line in said if "taken as" in line and "bits" in line]
    assert len(about_range) == (TOPS[top] is not None) and all(TOPS[top] in line for line in about_range)
    about_channel = [line for line in said if "ExtraSamples" in line]
    assert len(about_channel) == (kind in ("RGBX", "RGB?"))


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize(("form", "compression", "kind"), FILES)
def test_opened_images_have_the_pixels_of_their_files_or_one_line_says_what_was_taken(
    form, compression, kind, top, said
):
    content = file(form, compression, kind, top)
    expected = np.asarray(decode(content, "k"))
    opened = Image.open(io.BytesIO(content))
    for _ in range(2):  # the image of the caller is not changed
        np.testing.assert_array_equal(np.asarray(as_rgb(opened, "k")), expected)
    for loaded in (opened, opened.copy()):
        value_range._told.clear()
        said.clear()
        loaded.load()
        found = np.asarray(as_rgb(loaded, "image 5")).astype(int)
        if np.abs(found - expected).max() > 3:
            assert len([line for line in said if "image 5: " in line and "pass the path instead" in line]) == 1
    if top == 65535:
        assert np.abs(found - expected).max() <= 3 and not any("path" in line for line in said)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("form", "compression", "kind"), FILES)
def test_16_bit_colours_are_turned_once(form, compression, kind, orientation):
    content = file(form, compression, kind, 4095, orientation)
    for found in (decode(content, "k"), as_rgb(Image.open(io.BytesIO(content)))):
        assert found.size == (WIDTH, HEIGHT)
        assert np.abs(np.asarray(found).astype(int) - KINDS[kind][-1]).max() <= 1


@pytest.mark.parametrize("top", TOPS)
def test_the_transparent_colour_of_a_png_is_compared_in_both_bytes(top):
    step = max(top // 255, 1)
    values = np.full((1, 4, 3), step * 7, np.uint16)
    values[0, 1] = [step * 7, step * 7, step * 7 - 1]  # another colour, for 16 bits of the same high bytes
    values[0, 3] = top
    found = np.asarray(decode(png(values, transparent=values[0, 0]), "k"))[0]
    assert (found[[0, 2, 3]] == 255).all() and (found[1] < 9).all()


def test_the_transparent_colour_of_a_loaded_png_is_compared_in_its_high_bytes_and_one_line_says_so(said):
    values = np.array([[[0x8101] * 3, [0x4000] * 3]], np.uint16)
    image = Image.open(io.BytesIO(png(values, transparent=values[0, 0])))
    image.load()
    assert np.asarray(as_rgb(image))[0, :, 0].tolist() == [255, 64]
    assert len(said) == 1 and "is taken as the high bytes of 16 bits" in said[0]


@pytest.mark.parametrize(
    ("bits", "row", "transparent"), [(2, b"\x1b", 2), (4, b"\x05\xaf", 5), (8, b"\0\5\xaf\xff", 5)]
)
@pytest.mark.parametrize("loaded", [False, True])
def test_the_transparent_gray_of_an_opened_png_is_that_of_its_file(bits, row, transparent, loaded, said):
    header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", transparent))
    content = b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    image = Image.open(io.BytesIO(content))
    if loaded:
        image.load()
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(as_rgb(image)), np.asarray(decode(content, "k")))
    assert len(said) == (loaded and bits < 8)


@pytest.mark.parametrize(("low", "high", "expected"), [(0, 127, [0, 255]), (-128, 127, [0, 255]), (-100, 20, [0, 255])])
@pytest.mark.parametrize("order", "<>")
def test_signed_values_of_8_bits_do_not_wrap(low, high, expected, order, said):
    values = np.rint(np.linspace(low, high, WIDTH * HEIGHT)).astype(np.int8).reshape(HEIGHT, WIDTH)
    content = tiff(values.tobytes(), bits=[8], order=order, extra={339: (3, [2])})
    loaded = Image.open(io.BytesIO(content))
    loaded.load()
    for image in (decode(content, "k"), as_rgb(loaded), as_rgb(Image.open(io.BytesIO(content)))):
        found = np.asarray(image)[..., 0].astype(int).ravel()
        assert found[[0, -1]].tolist() == expected and (np.diff(found) >= 0).all()
    assert len(said) == 1 and "8-bit integers" in said[0]


@pytest.mark.parametrize(("extra", "expected"), [(0, gray(GRAY)), (1, None), (2, on_white(gray(GRAY), HALF))])
def test_a_gray_tiff_with_a_second_channel_says_what_it_was_taken_as(extra, expected, said):
    values = np.dstack([GRAY if extra != 1 else np.rint(GRAY * (HALF / 255)).astype(np.uint8), HALF])
    content = tiff(values.tobytes(), bits=[8, 8], extra={338: (3, [extra])})
    expected = on_white(gray(GRAY), HALF) if expected is None else expected
    assert np.abs(np.asarray(decode(content, "k")).astype(int) - expected).max() <= 2
    assert len(said) == (extra == 0)


@pytest.mark.parametrize("top", [4095, 65535])
def test_compressed_planes_of_12_bits_are_reported(top):
    planes = [np.rint(plane / 255 * top).astype("<u2").tobytes() for plane in np.moveaxis(COLOURS, -1, 0)]
    strips = [zlib.compress(plane) for plane in planes]
    starts = [8 + sum(map(len, strips[:number])) for number in range(3)]
    extra = {259: (3, [8]), 273: (4, starts), 279: (4, [len(strip) for strip in strips]), 284: (3, [2])}
    content = tiff(b"".join(strips), bits=[16] * 3, photometric=2, extra=extra)
    if top == 65535:
        assert np.abs(np.asarray(decode(content, "k")).astype(int) - COLOURS).max() <= 1
    else:
        with pytest.raises(BadRecord, match="16 bits in separate planes, which Pillow misreads"):
            decode(content, "k")


def test_a_page_that_the_caller_chose_is_kept():
    pages = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    buffer = io.BytesIO()
    pages[0].save(buffer, "tiff", save_all=True, append_images=pages[1:])
    image = Image.open(buffer)
    assert np.asarray(as_rgb(image))[0, 0].tolist() == [255, 0, 0]
    image.seek(1)
    assert np.asarray(as_rgb(image))[0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF"])
def test_a_damaged_opened_image_is_a_bad_record(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, kind)
    image = Image.open(buffer)
    buffer.truncate(len(buffer.getvalue()) // 2)
    with pytest.raises(BadRecord, match=r"image 2: the image (cannot be decoded|is a TIFF that Pillow cannot read)"):
        as_rgb(image, "image 2")

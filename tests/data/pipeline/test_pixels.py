"""Every pixel mode in every format, and every orientation, against a reference that is read off the saved pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.pipeline import value_range
from data.pipeline.augmentation import Augmentation, augment
from data.pipeline.image_ops import EncodedImage, decode
from data.pipeline.value_range import find_range
from data.sources.base import BadRecord

WIDTH, HEIGHT = 24, 16
RAMP = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)  # smooth, so that lossy formats keep it
GRAY = np.rint(RAMP).astype(np.uint8)
COLOURS = np.stack([GRAY, GRAY[::-1], np.rint(RAMP[:, ::-1] / 2 + 60).astype(np.uint8)], axis=-1)
ALPHA = np.where(np.arange(WIDTH) < WIDTH // 2, 255, 0).astype(np.uint8)[None].repeat(HEIGHT, 0)
UNDO = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Image.Transpose of a camera held that way


@pytest.fixture(autouse=True)
def untold():
    value_range._told.clear()


def save(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content):
    return np.asarray(decode(content, "k")).astype(int)


def on_white(colours, alpha):
    share = alpha[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(int)


def gray(values):
    return np.repeat(np.asarray(values, int)[..., None], 3, axis=2)


def palette_image():
    """Return an image whose indices run through a palette of colours, and these colours."""
    table = np.stack([np.arange(256), 255 - np.arange(256), (np.arange(256) * 7) % 256], axis=1).astype(np.uint8)
    image = Image.fromarray(GRAY)
    image.putpalette(table.tobytes())
    return image, table[GRAY]


def cmyk():
    """Return ink values, and the colours that they stand for: 255 minus the ink, without a colour profile."""
    ink = np.dstack([COLOURS, np.zeros_like(GRAY)])
    return Image.fromarray(ink, "CMYK"), 255 - COLOURS.astype(int)


def lab():
    """Return Lab pixels, and their colours: CIE Lab with the white of D50, adapted to sRGB by Bradford's matrix."""
    light, a, b = RAMP * 100 / 255, np.full_like(RAMP, 20.0), np.full_like(RAMP, -15.0)
    stored = np.stack([np.rint(RAMP), a % 256, b % 256], axis=-1).astype(np.uint8)  # a and b are signed
    fy = (np.rint(RAMP) * 100 / 255 + 16) / 116
    assert np.allclose(light, RAMP / 2.55)
    f = np.stack([fy + a / 500, fy, fy - b / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1, 0.8249]
    linear = xyz @ np.array(
        [[3.1338561, -0.9787684, 0.0719453], [-1.6168667, 1.9161415, -0.2289914], [-0.4906146, 0.0334540, 1.4052427]]
    )
    linear = np.clip(linear, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return Image.frombytes("LAB", (WIDTH, HEIGHT), stored.tobytes()), np.rint(255 * rgb)


def modes():
    """Return each mode's image and its colours."""
    coloured, colours = palette_image()
    with_alpha = Image.fromarray(np.dstack([COLOURS, ALPHA]))
    wide = np.rint(RAMP * 257).astype(np.uint16)
    return {
        "1": (Image.fromarray(GRAY > 127), gray(255 * (GRAY > 127))),
        "L": (Image.fromarray(GRAY), gray(GRAY)),
        "LA": (Image.fromarray(np.dstack([GRAY, ALPHA])), on_white(gray(GRAY), ALPHA)),
        "P": (coloured, colours),
        "PA": (Image.merge("LA", (Image.fromarray(GRAY), Image.fromarray(ALPHA))), on_white(colours, ALPHA)),
        "RGB": (Image.fromarray(COLOURS), COLOURS),
        "RGBA": (with_alpha, on_white(COLOURS, ALPHA)),
        "CMYK": cmyk(),
        "YCbCr": (Image.fromarray(COLOURS).convert("YCbCr"), COLOURS),
        "LAB": lab(),
        "I;16": (Image.fromarray(wide), gray(np.rint(wide / 257))),
        "I": (Image.fromarray(wide.astype(np.int32)), gray(np.rint(wide / 257))),
        "F": (Image.fromarray((RAMP / 255).astype(np.float32)), gray(np.rint(RAMP))),
    }


# The modes that a format can store, and the largest error of its compression.
STORED = {
    "png": ("1 L LA P RGB RGBA I;16", 1),
    "jpeg": ("1 L RGB CMYK YCbCr", 12),
    "mpo": ("1 L RGB CMYK YCbCr", 12),
    "webp": ("1 L LA P RGB RGBA", 2),
    "avif": ("1 L LA P RGB RGBA", 12),
    "tiff": ("1 L LA P PA RGB RGBA CMYK YCbCr LAB I;16 I F", 2),
    "gif": ("1 L P", 0),
    "bmp": ("1 L P RGB", 0),
}
ROUNDING = {"LAB": 6, "YCbCr": 12}  # of their 8-bit values in dark and saturated colours
OPTIONS = {
    "jpeg": {"quality": 100, "subsampling": 0},
    "mpo": {"quality": 100, "subsampling": 0},
    "webp": {"lossless": True},
    "avif": {"quality": 100, "subsampling": "4:4:4"},
}
CASES = [(kind, mode) for kind, (names, _) in STORED.items() for mode in names.split()]


@pytest.mark.parametrize(("kind", "mode"), CASES)
def test_every_mode_of_every_format_has_its_colours(kind, mode):
    image, expected = modes()[mode]
    content = palette_with_alpha() if mode == "PA" else save(image, kind, **OPTIONS.get(kind, {}))
    opened = Image.open(io.BytesIO(content))
    if kind == "tiff":
        assert opened.mode == mode
    assert np.abs(pixels(content) - expected).max() <= max(STORED[kind][1], ROUNDING.get(mode, 0))


def palette_with_alpha():
    """Return a TIFF of mode PA, which Pillow reads but does not write: a gray one with alpha, given a palette."""
    _, colours = palette_image()
    table = np.zeros((256, 3), np.uint16)
    table[GRAY.ravel()] = colours.reshape(-1, 3).astype(np.uint16) * 257
    content = np.dstack([GRAY, ALPHA]).tobytes()
    return tiff(content, bits=(8, 8), photometric=3, extra={338: (3, [2]), 320: (3, table.T.ravel().tolist())})


def tiff(content, *, bits, photometric=1, extra=None, order="<"):
    """Return an uncompressed TIFF of one strip with any tags: number → (type 3 or 4, values)."""
    tags = {
        256: (3, [WIDTH]), 257: (3, [HEIGHT]), 258: (3, list(bits)), 259: (3, [1]), 262: (3, [photometric]),
        273: (4, [8]), 277: (3, [len(bits)]), 278: (3, [HEIGHT]), 279: (4, [len(content)]), **(extra or {}),
    }  # fmt: skip
    content += b"\0" * (len(content) % 2)
    directory = 8 + len(content)
    after = directory + 2 + 12 * len(tags) + 4
    entries, outside = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(data) > 4:
            data, outside = struct.pack(f"{order}I", after + len(outside)), outside + data
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", directory)
    return head + content + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + outside


FULL = {"u2": 65535, "i2": 32767, "u4": 2**32 - 1, "i4": 2**31 - 1, "f4": 10**9}


RANGES = [
    (order, kind, top)
    for kind, full in FULL.items()
    for top in sorted({1 if kind == "f4" else 255, 255, 4095, 65535, full})
    for order in "<>"
    if top <= full and (kind, order) != ("u4", ">")  # which Pillow does not read
]


@pytest.mark.parametrize(("order", "kind", "top"), RANGES)
def test_values_of_more_than_8_bits_have_the_range_that_holds_them(order, kind, top, said):
    values = (RAMP / 255 * top).astype(order + kind)
    sample_format = {"u": 1, "i": 2, "f": 3}[kind[0]]
    content = tiff(values.tobytes(), bits=[8 * int(kind[1])], order=order, extra={339: (3, [sample_format])})
    assert np.abs(pixels(content) - gray(np.rint(RAMP))).max() <= 1
    pixels(content)
    certain = kind == "u2" and top == 65535
    assert len(said) == (0 if certain else 1)
    assert certain or ("k: the pixels of this image are " in said[0] and "Convert the images to 8 bits" in said[0])


def test_a_12_bit_tiff_declares_its_range(said):
    values = np.rint(RAMP / 255 * 1000).astype(np.uint16).ravel()
    pairs = values.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    content = tiff(packed.astype(np.uint8).tobytes(), bits=[12])
    assert np.abs(pixels(content) - gray(np.rint(values.reshape(HEIGHT, WIDTH) / 4095 * 255))).max() <= 1
    assert not said


@pytest.mark.parametrize(("kind", "bits", "top"), [("u1", 8, 255), ("u2", 16, 65535), ("f4", 32, 1)])
def test_white_may_be_zero_in_tiff(kind, bits, top):
    values = (RAMP / 255 * top).astype(kind)
    content = tiff(values.tobytes(), bits=[bits], photometric=0, extra={339: (3, [3 if kind == "f4" else 1])})
    assert np.abs(pixels(content) - gray(np.rint(255 - RAMP))).max() <= 1


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.0, 1.0], 0, 1),
        ([-0.02, 1.04], 0, 1),  # overshoot of a resized picture
        ([-1.0, 0.9], -1, 1),
        ([-4.0, 259.0], 0, 255),
        ([0.0, np.nan, np.inf, 0.5], 0, 1),
        ([-300.0, 900.0], -300, 900),
        ([0.0, 1e6], 0, 1e6),
        ([0.0, 0.0], 0, 1),
        ([-5.0, -5.0], -5, -5),
        ([-3e38, 3e38], float(np.float32(-3e38)), float(np.float32(3e38))),
    ],
)
def test_the_range_of_floats_follows_from_their_values(values, low, high):
    assert find_range(np.array(values, np.float32))[:2] == (low, high)


def test_an_image_without_a_finite_value_is_a_bad_record():
    content = save(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "tiff")
    with pytest.raises(ValueError, match="none of its values is a finite number"):
        decode(content, "k")


@pytest.mark.parametrize(
    ("values", "expected"), [([-5, -5, -5, -5], [0] * 4), ([-3e38, 0, 1e38, 3e38], [0, 128, 170, 255])]
)
def test_extreme_values_are_stretched(values, expected):
    found = pixels(save(Image.fromarray(np.array([values], np.float32)), "tiff"))[0, :, 0]
    assert np.abs(found - expected).max() <= 1


def test_a_tiff_that_cannot_be_read_is_not_called_another_format():
    content = tiff(
        np.zeros((HEIGHT, WIDTH, 3), np.float32).tobytes(), bits=[32] * 3, photometric=2, extra={339: (3, [3])}
    )
    with pytest.raises(BadRecord, match=r"k: the image is a TIFF that Pillow cannot read, .* Convert it to 8 bits"):
        decode(content, "k")


@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_of_tiff_may_be_premultiplied(channels, extra):
    colours = COLOURS if channels == 4 else GRAY[..., None]
    alpha = np.full_like(GRAY, 128)
    stored = np.rint(colours * (128 / 255)).astype(np.uint8) if extra == 1 else colours
    content = np.dstack([stored, alpha]).tobytes()
    content = tiff(content, bits=[8] * channels, photometric=1 if channels == 2 else 2, extra={338: (3, [extra])})
    assert np.abs(pixels(content) - on_white(colours, alpha)).max() <= 2


def test_values_that_are_not_finite_are_black_or_white(said):
    values = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    assert pixels(save(Image.fromarray(values), "tiff"))[0, :4, 0].tolist() == [0, 255, 0, 128]
    assert "floats from 0.5 to 0.5, taken as 0 to 1" in said[0]


def test_each_kind_of_range_is_logged_once(said):
    for _ in range(3):
        pixels(save(Image.fromarray((RAMP / 255).astype(np.float32)), "tiff"))
        pixels(save(Image.fromarray((RAMP * 16).astype(np.uint16)), "png"))
    assert len(said) == 2
    assert "floats from 0 to 1, taken as 0 to 1" in said[0]
    assert "16-bit integers from 0 to 4080, taken as 12 bits, 0 to 4095" in said[1]


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_16_bits(values):
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("top", [255, 4095, 65535])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["png", "tiff <", "tiff >"])
def test_colours_of_12_bits_in_16_are_not_black(kind, channels, top, said):
    eight = COLOURS if channels == 3 else np.dstack([COLOURS, ALPHA])
    values = np.rint(eight / 255 * top).astype(np.uint16)
    if kind == "png":
        content = png_of_16_bits(values)
    else:
        order, extra = kind[-1], {338: (3, [2])} if channels == 4 else {}
        content = tiff(
            values.astype(f"{order}u2").tobytes(), bits=[16] * channels, photometric=2, order=order, extra=extra
        )
    expected = COLOURS if channels == 3 else on_white(COLOURS, ALPHA)
    assert np.abs(pixels(content) - expected).max() <= 1
    assert len(said) == (top < 65535)


def test_opaque_colours_of_12_bits_are_not_black():
    values = np.dstack([np.rint(COLOURS / 255 * 4095), np.full_like(GRAY, 65535, np.uint16)]).astype(np.uint16)
    assert np.abs(pixels(png_of_16_bits(values)) - COLOURS).max() <= 1


@pytest.mark.parametrize(("bits", "readable"), [(8, True), (16, False)])
def test_a_tiff_of_separate_planes_is_read_or_reported(bits, readable):
    planes = COLOURS.transpose(2, 0, 1).astype(np.uint16)
    content = (planes.astype(np.uint8) if bits == 8 else planes * 257).tobytes()
    strip = len(content) // 3
    extra = {273: (4, [8, 8 + strip, 8 + 2 * strip]), 279: (4, [strip] * 3), 284: (3, [2])}
    given = tiff(content, bits=[bits] * 3, photometric=2, extra=extra)
    if readable:
        assert np.array_equal(pixels(given), COLOURS)
    else:
        with pytest.raises(BadRecord, match="16 bits in separate planes, which Pillow misreads"):
            pixels(given)


@pytest.mark.parametrize("order", ["<", ">"])
def test_compressed_tiff_of_12_bit_colours_is_upright(order):
    stored = np.rot90(np.rint(COLOURS / 255 * 4095)).astype(f"{order}u2")
    size = {256: (3, [HEIGHT]), 257: (3, [WIDTH]), 278: (3, [WIDTH])}
    extra = {**size, 259: (3, [8]), 274: (3, [6])}
    content = tiff(zlib.compress(stored.tobytes()), bits=[16] * 3, photometric=2, order=order, extra=extra)
    assert np.abs(pixels(content) - COLOURS).max() <= 1


@pytest.mark.parametrize(
    ("bits", "colour", "row", "transparent", "expected"),
    [
        (1, 0, b"\x40", b"\0\1", [0, 255, 0, 0]),
        (2, 0, b"\x1b", b"\0\2", [0, 85, 255, 255]),
        (4, 0, b"\x05\xaf", b"\0\5", [0, 255, 170, 255]),
        (8, 0, b"\x00\x05\xaf\xff", b"\0\5", [0, 255, 175, 255]),
        (16, 0, b"\0\0\1\5\xff\xff\x80\x80", b"\1\5", [0, 255, 255, 128]),
        (16, 2, b"\0" * 6 + b"\x81\x01" * 3 + b"\x20\x20" * 3 + b"\xff" * 6, b"\x81\x01" * 3, [0, 255, 32, 255]),
    ],
)
def test_the_transparent_value_of_a_png_is_white_at_every_depth(bits, colour, row, transparent, expected):
    header = struct.pack(">IIBBBBB", 4, 1, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", transparent * (3 if colour == 2 and len(transparent) == 2 else 1))
    content = b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    found = pixels(content)
    assert found[0, :, 0].tolist() == expected and (found == found[..., :1]).all()


def xmp(orientation):
    return f'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'.encode()


def oriented(kind, stored, orientation):
    """Return `stored` in a format with an orientation, in each place that the format has for it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = OPTIONS.get(kind, {})
    if kind == "tiff":
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            yield save(stored, kind, exif=exif, compression=compression)
        yield save(stored, kind, tiffinfo={700: xmp(orientation)})
        return
    yield save(stored, kind, exif=exif, **options)
    if kind in ("jpeg", "webp"):
        yield save(stored, kind, xmp=xmp(orientation), **options)
    if kind == "png":
        plain, data = save(stored, kind), exif.tobytes().removeprefix(b"Exif\0\0")
        yield plain[:-12] + chunk(b"eXIf", data) + plain[-12:]  # behind the pixels
        hexadecimal = f"\nexif\n{len(data):8}\n{(b'Exif' + bytes(2) + data).hex()}\n".encode()
        yield plain[:33] + chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal)) + plain[33:]
        yield plain[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation)) + plain[33:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg", "mpo", "webp", "avif", "tiff"])
def test_images_of_every_format_are_upright_in_every_orientation(kind, orientation):
    upright = Image.fromarray(COLOURS)
    stored = upright.transpose(Image.Transpose(UNDO[orientation])) if orientation > 1 else upright
    for content in oriented(kind, stored, orientation):
        image = EncodedImage(content, "k")
        assert image.size == (WIDTH, HEIGHT)
        assert np.abs(np.asarray(image.decode()).astype(int) - COLOURS).max() <= STORED[kind][1]
        whole = Augmentation(crop_area=(1, 1), crop_aspect=(1.5, 1.5))
        view = augment(EncodedImage(content, "k"), (HEIGHT, WIDTH), settings=whole, rng=np.random.default_rng(0))
        assert np.abs(view.astype(int) - COLOURS).max() <= STORED[kind][1]  # training sees what evaluation sees


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "LAB", "CMYK", "1", "P"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_tiff_of_every_mode_is_turned_once(mode, orientation):
    image, expected = modes()[mode]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = save(image.transpose(Image.Transpose(UNDO[orientation])), "tiff", exif=exif)
    assert np.abs(pixels(content) - expected).max() <= ROUNDING.get(mode, 2)

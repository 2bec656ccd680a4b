"""Malicious shards, tables, folders and images."""

import io
import os
import resource
import struct
import tarfile
import threading
import tracemalloc
import zlib

import fsspec
import pytest

from data.io.storage import find_files, read_file
from data.pipeline.image_ops import EncodedImage
from data.sources.base import MAX_PART_BYTES, BadRecord
from data.sources.open import open_source
from tests.data.shard_files import labelled, png, write_shard

TIMEOUT = 10  # seconds


def soon(call):
    """Return the result or the exception of `call`; fail if it takes longer than `TIMEOUT`."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert outcome, "the call hangs"
    return outcome[0]


@pytest.fixture(params=["pipe", "link to a device"])
def endless(request, tmp_path):
    """The path of an image file name whose content never ends."""
    path = tmp_path / "folder" / "class" / "endless.png"
    path.parent.mkdir(parents=True)
    if request.param == "pipe":
        os.mkfifo(path)
        yield path
        return
    ours, theirs = os.openpty()
    path.symlink_to(os.ttyname(theirs))
    yield path
    os.close(ours)
    os.close(theirs)


def test_a_table_of_endless_files_has_bad_records(endless, tmp_path):
    (tmp_path / "t.csv").write_text(f"path,caption\n{endless},a thing\n{os.path.realpath(endless)},a thing\n")
    source = open_source(str(tmp_path / "t.csv"), tmp_path / "cache")
    for index in range(2):
        error = soon(lambda index=index: source[index])
        assert (
            isinstance(error, BadRecord)
            and error.reason == "missing file"
            and "does not exist or is not a file" in str(error)
        )


def test_a_folder_with_an_endless_file_has_a_bad_record(endless, tmp_path):
    (endless.parent / "whole.png").write_bytes(png(0))
    source = open_source(str(tmp_path / "folder"), tmp_path / "cache")
    error = soon(lambda: source[0])
    assert isinstance(error, BadRecord) and error.reason == "missing file" and "a pipe or a device" in str(error)
    assert source[1].image == png(0)


def test_a_pipe_is_not_a_shard(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    for name in ("a.tar", "*.tar"):
        with pytest.raises(FileNotFoundError, match="no file matches"):
            find_files(str(tmp_path / name))
    write_shard(tmp_path / "b.tar", labelled(3))
    source = soon(lambda: open_source(str(tmp_path / "*.tar"), tmp_path / "cache"))
    assert len(source) == 3


@pytest.mark.parametrize("suffix", ["png", "txt"])
def test_a_member_of_ten_gigabytes_is_bad_and_takes_no_memory(tmp_path, suffix):
    size = 10 << 30
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        caption = tarfile.TarInfo("0.json")
        caption.size = len(b'{"a": 1}')
        archive.addfile(caption, io.BytesIO(b'{"a": 1}'))
        header = tarfile.TarInfo(f"0.{suffix}")
        header.size = size
        archive.addfile(header)
        end = archive.offset
    with open(tmp_path / "s.tar", "r+b") as archive:
        archive.truncate(end + size + 1024)  # a sparse file takes no space
    source = open_source(str(tmp_path / "s.tar"), tmp_path / "cache")
    tracemalloc.start()
    try:
        with pytest.raises(
            BadRecord, match=f"its {'txt' if suffix == 'txt' else 'image'} has 10,737,418,240 bytes"
        ) as error:
            source[0]
        assert tracemalloc.get_traced_memory()[1] < 10_000_000 < MAX_PART_BYTES
    finally:
        tracemalloc.stop()
    assert error.value.reason == "too many bytes"


ADDRESSES = [
    "memory://pictures/a.png",
    "simplecache::memory://pictures/a.png",
    "https://nowhere.invalid/a::memory://pictures/a.png",
    "reference::memory://pictures/a.png",
    "ssh://root@nowhere.invalid/a.png",
    "git://pictures/a.png",
    "dask://nowhere.invalid/a.png",
    "ftp://nowhere.invalid/a.png",
]


@pytest.fixture
def in_memory():
    """An image in a store that only tables in the same store may use."""
    store = fsspec.filesystem("memory")
    store.pipe("/pictures/a.png", png(0))
    store.pipe("/pictures/t.csv", b"path,caption\nmemory://pictures/a.png,a thing\na.png,a thing\n")
    assert read_file(ADDRESSES[0]) == read_file(ADDRESSES[1]) == png(0)  # fsspec would open them
    yield
    store.rm("/pictures", recursive=True)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_row_cannot_use_other_protocols_than_stores_and_the_web(in_memory, tmp_path, address):
    (tmp_path / "t.csv").write_text(f"path,caption\n{address},a thing\n")
    source = open_source(str(tmp_path / "t.csv"), tmp_path / "cache")
    error = soon(lambda: source[0])
    assert isinstance(error, BadRecord) and error.reason == "missing file"
    assert "is not a path or an address of an allowed protocol: http, https, s3" in str(error)


def test_a_row_can_use_the_protocol_of_its_table(in_memory, tmp_path):
    source = open_source("memory://pictures/t.csv", tmp_path / "cache")
    assert source[0].image == source[1].image == png(0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bombs():
    """Return small files, by name, that claim or decompress to more memory than a machine has."""
    side = 60_000
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    small = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0\0" * 2))
    noise = zlib.compress(bytes(1 << 28), 9)
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, side)]
    tags += [(279, 4, 1 << 31)]
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I" if kind == 4 else "<Hxx", value)
        for tag, kind, value in tags
    )
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00;"
    png_start = b"\x89PNG\r\n\x1a\n"
    lossless = b"\x2f" + (16_382 | 16_382 << 14).to_bytes(4, "little") + bytes(101)
    inner = b"VP8L" + struct.pack("<I", len(lossless)) + lossless
    return {
        "png": png_start + chunk(b"IHDR", header) + pixels,
        "png, of a text": png_start + chunk(b"IHDR", small) + chunk(b"zTXt", b"a\0\0" + noise) + pixels,
        "png, of a profile": png_start + chunk(b"IHDR", small) + chunk(b"iCCP", b"a\0\0" + noise) + pixels,
        "gif": b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + frame,
        "gif, of a frame": b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0, 0, 0) + frame,
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        "tiff": b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4),
        "webp": b"RIFF" + struct.pack("<I", len(inner) + 4) + b"WEBP" + inner,
    }


def peak() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_of_an_enormous_image_is_bad_and_takes_no_memory(name):
    content, before = BOMBS[name], peak()
    assert len(content) < 1_000_000
    with pytest.raises(BadRecord) as error:
        EncodedImage(content, "x").decode()
    assert error.value.reason == ("corrupt image" if name.startswith("png, of") else "too many pixels")
    assert peak() - before < 400_000_000  # a quarter of the first as RGB would be 2.7 GB

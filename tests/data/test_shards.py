"""Shards, the embedded set, and sources by name."""

import collections

import pytest

from data import emoji
from data.images import decode
from data.shards import Shard
from data.sources import open_source, open_sources
from tests.data.shard_files import labelled, png, write_shard


def test_samples_come_back_as_written(tmp_path):
    samples = [
        ("a", png(0), {"texts": ["one", "two"], "label": 4, "class": "x"}),
        ("dir/b.c", png(1), {"caption": "only"}),
    ]
    shard = Shard(str(write_shard(tmp_path / "s.tar", samples)))
    assert len(shard) == 2
    assert (shard[0].image, shard[0].texts, shard[0].label, shard[0].class_name) == (png(0), ("one", "two"), 4, "x")
    assert (shard[1].key, shard[1].texts, shard[1].label) == ("s.tar/dir/b.c", ("only",), None)


def test_a_pattern_opens_all_its_shards_in_order(tmp_path):
    for number in (1, 0):
        write_shard(tmp_path / f"s-{number}.tar", labelled(3 + number))
    source = open_sources([str(tmp_path / "s-*.tar"), str(tmp_path / "s-0.tar")], tmp_path)
    assert [source[index].key for index in (0, 2, 3, 6, 7, 9)] == [
        "s-0.tar/0000",
        "s-0.tar/0002",
        "s-1.tar/0000",
        "s-1.tar/0003",
        "s-0.tar/0000",
        "s-0.tar/0002",
    ]
    assert len(source) == 10
    with pytest.raises(IndexError):
        source[10]


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.1])
def test_a_shard_that_is_cut_off_is_named(tmp_path, kept):
    path = write_shard(tmp_path / "s.tar", labelled(20, size=(64, 64)))
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"shard .*s\.tar"):
        Shard(str(path))


def test_what_is_no_tar_file_is_named(tmp_path):
    (tmp_path / "s.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(ValueError, match=r"s\.tar is cut off or is no tar file"):
        Shard(str(tmp_path / "s.tar"))


def test_half_a_sample_is_named(tmp_path):
    path = write_shard(tmp_path / "s.tar", labelled(2))
    content = path.read_bytes().replace(b"0001.png", b"0001.doc")
    path.write_bytes(fix_checksums(content))
    with pytest.raises(ValueError, match=r"sample '0001' has no image; it holds .doc, .json"):
        Shard(str(path))


def test_a_pattern_without_a_match_and_an_unknown_artist_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shard matches"):
        open_source(str(tmp_path / "*.tar"), tmp_path)
    with pytest.raises(ValueError, match="known: noto, twemoji, fluent3d"):
        open_source("emoji:apple", tmp_path)


def test_the_embedded_set_is_written_out_once_and_whole(tmp_path):
    paths = emoji.write_shards(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in paths.values()}
    assert {artist: len(Shard(str(path))) for artist, path in paths.items()} == {
        "noto": 1906,
        "twemoji": 1906,
        "fluent3d": 1607,
    }
    assert {path: path.stat().st_mtime_ns for path in emoji.write_shards(tmp_path).values()} == before
    shard = Shard(str(paths["fluent3d"]))
    assert sum(count >= 20 for count in collections.Counter(shard[i].label for i in range(len(shard))).values()) == 29
    assert decode(shard[0].image, "0").size == (64, 64)
    assert shard[0].texts[0] == "keycap: #" and shard[0].class_name == "keycap"


def test_the_embedded_set_stays_small():
    assert sum(path.stat().st_size for path in emoji.FOLDER.iterdir() if path.is_file()) < 4_000_000


def fix_checksums(tar: bytes) -> bytes:
    """Returns the archive with every header's checksum made right again."""
    content, offset = bytearray(tar), 0
    while content[offset : offset + 5].strip(b"\0"):
        header = content[offset : offset + 512]
        header[148:156] = b" " * 8
        content[offset + 148 : offset + 156] = b"%06o\0 " % sum(header)
        size = int(bytes(header[124:135]), 8)
        offset += 512 + (size + 511) // 512 * 512
    return bytes(content)

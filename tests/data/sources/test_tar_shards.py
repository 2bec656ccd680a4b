"""Tar shards as a source, and damaged shards."""

import json
import pickle
import tarfile

import pytest

from data.sources.base import BadRecord
from data.sources.open import TEXT_KEYS, open_source, open_sources
from tests.data.shard_files import labelled, members, png, write_shard, write_tar


def reason(source, index):
    with pytest.raises(BadRecord) as caught:
        source[index]
    assert caught.value.key == source.key(index)
    return caught.value.reason


def test_samples_are_read_as_written(tmp_path):
    samples = [
        ("a", png(0), {"texts": ["one", "two"], "label": 4, "class": "x", "artist": "me"}),
        ("dir/b.c", png(1), {"caption": "only"}),
    ]
    shard = open_source(str(write_shard(tmp_path / "s.tar", samples)), tmp_path)
    assert len(shard) == 2
    assert (shard[0].image, shard[0].texts, shard[0].label, shard[0].class_name) == (png(0), ("one", "two"), 4, "x")
    assert shard[0].metadata["artist"] == "me"
    assert (shard[1].key, shard[1].texts, shard[1].label) == ("s.tar/dir/b", ("only",), None)
    assert [shard.key(0), shard.key(1)] == ["s.tar/a", "s.tar/dir/b"]
    assert [shard.texts(0), shard.texts(1)] == [("one", "two"), ("only",)]
    assert pickle.loads(pickle.dumps(shard))[1].image == png(1)


def test_text_keys_select_captions_from_txt_or_json(tmp_path):
    fields = {"caption": "of json", "ALT": ["alt 1", "", "alt 2"]}
    parts = [
        ("a.jpg", png(0)),
        ("a.txt", "of txt — é".encode()),
        ("a.json", json.dumps(fields).encode()),
        ("a.cls", b"7\n"),
    ]
    path = str(write_tar(tmp_path / "s.tar", parts))
    for keys, texts in [
        (TEXT_KEYS, ("of json",)),
        (("txt", "caption"), ("of txt — é",)),
        (("ALT",), ("alt 1", "alt 2")),
        (("nothing",), ()),
    ]:
        source = open_source(path, tmp_path, text_keys=keys)
        assert source[0].texts == source.texts(0) == texts
    assert source[0].label == 7


def test_json_is_optional(tmp_path):
    source = open_source(
        str(write_tar(tmp_path / "s.tar", [("a.webp", png(0)), ("a.txt", b"\xef\xbb\xbf words\r\n")])), tmp_path
    )
    assert source[0].texts == ("words",) and source[0].label is None


def test_a_pattern_opens_its_shards_in_order(tmp_path):
    for number in (1, 0):
        write_shard(tmp_path / f"s-{number}.tar", labelled(3 + number))
    source = open_sources([str(tmp_path / "s-{0..1}.tar"), str(tmp_path / "s-0.tar")], tmp_path)
    assert [source[index].key for index in (0, 2, 3, 6, 7, 9)] == [
        "s-0.tar/0000",
        "s-0.tar/0002",
        "s-1.tar/0000",
        "s-1.tar/0003",
        "s-0.tar/0000",
        "s-0.tar/0002",
    ]
    assert len(source) == 10
    for index in (10, -1):
        with pytest.raises(IndexError):
            source[index]


@pytest.mark.parametrize(("part", "inside", "left"), [(18, 9, "cut off"), (19, 2, "cut off"), (19, -200, "no texts")])
def test_a_truncated_shard_is_reported_and_yields_its_complete_samples(tmp_path, said, part, inside, left):
    path = write_shard(tmp_path / "s.tar", labelled(20, size=(64, 64)))
    with tarfile.open(path) as archive:
        end = archive.getmembers()[part].offset_data + inside  # of the image or the fields of sample 9
    path.write_bytes(path.read_bytes()[:end])
    source = open_source(str(path), tmp_path)
    [line] = said
    assert "1 of 1 shards are damaged" in line and f"s.tar: truncated at byte {end:,}" in line
    assert len(source) == 10
    assert [source[index].image for index in range(9)] == [png(index, (64, 64)) for index in range(9)]
    assert (source[9].texts == ()) if left == "no texts" else reason(source, 9) == left


def test_incomplete_samples_are_bad_records(tmp_path):
    parts = members(labelled(4))
    del parts[2]  # the image of the second
    source = open_source(str(write_tar(tmp_path / "s.tar", [*parts[:6], ("9.jpg", png(3))])), tmp_path)
    assert reason(source, 1) == "no image"
    assert source[3].texts == ()  # a missing caption is not an error of the source


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b"{", "fields not readable"),
        ("a.json", b"[1]", "fields not readable"),
        ("a.json", b"[" * 100_000, "fields not readable"),
        ("a.json", b'{"texts": "caf\xe9"}', "text not UTF-8"),
        ("a.json", b'{"texts": "\\ud800"}', "text not UTF-8"),
        ("a.json", b'{"texts": [1, 2]}', "fields not readable"),
        ("a.json", b'{"texts": {"a": 1}}', "fields not readable"),
        ("a.txt", b"caf\xe9", "text not UTF-8"),
    ],
)
def test_unreadable_fields_are_bad_records(tmp_path, name, content, expected):
    source = open_source(str(write_tar(tmp_path / "s.tar", [("a.png", png(0)), (name, content)])), tmp_path)
    assert reason(source, 0) == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [("3", 3), ("3.0", 3), (4.0, 4), ("cat", None), ([3], None), (float("inf"), None), (0.5, None)],
)
def test_a_label_is_a_whole_number_or_none(tmp_path, label, expected):
    source = open_source(str(write_shard(tmp_path / "s.tar", [("a", png(0), {"label": label})])), tmp_path)
    assert source[0].label == expected


def test_a_member_with_a_false_size_takes_no_memory(tmp_path):
    content = bytearray(write_tar(tmp_path / "s.tar", [("a.txt", b"x"), ("a.png", png(0))]).read_bytes())
    header = 1024
    content[header + 124 : header + 136] = b"\x80" + (1 << 60).to_bytes(11, "big")
    content[header + 148 : header + 156] = b" " * 8
    content[header + 148 : header + 156] = b"%06o\0 " % sum(content[header : header + 512])
    (tmp_path / "s.tar").write_bytes(content)
    assert reason(open_source(str(tmp_path / "s.tar"), tmp_path), 0) == "cut off"


def test_keys_include_folders_when_shards_share_a_name(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder / "0.tar", labelled(2))
    source = open_source(str(tmp_path / "*" / "0.tar"), tmp_path)
    assert [source.key(index) for index in (0, 2)] == ["a/0.tar/0000", "b/0.tar/0000"]


def test_blank_captions_are_dropped(tmp_path):
    source = open_source(str(write_shard(tmp_path / "s.tar", [("a", png(0), {"texts": ["", " \t"]})])), tmp_path)
    assert source[0].texts == ()


def test_empty_shards_among_others_are_skipped(tmp_path):
    write_shard(tmp_path / "0.tar", labelled(2))
    write_tar(tmp_path / "1.tar", [])
    (tmp_path / "2.tar").write_bytes(b"")
    write_shard(tmp_path / "3.tar", labelled(3))
    source = open_source(str(tmp_path / "*.tar"), tmp_path)
    assert [source.key(index) for index in (1, 2)] == ["0.tar/0001", "3.tar/0000"] and len(source) == 5
    assert list(source.problems.values()) == ["empty file"]


@pytest.mark.parametrize("content", [b"no tar" * 1000, b"", b"<html>" + b" " * 2000])
def test_a_shard_without_samples_is_rejected(tmp_path, content):
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"no sample in 1 shard\(s\) such as .*s\.tar"):
        open_source(str(tmp_path / "s.tar"), tmp_path)


def test_the_fingerprint_depends_on_the_samples_and_not_on_the_folder(tmp_path):
    prints = []
    for folder, samples in (
        ("a", labelled(3)),
        ("b", labelled(3)),
        ("c", labelled(4)),
        ("d", labelled(3, size=(21, 16))),
    ):
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder / "s.tar", samples)
        prints.append(open_source(str(tmp_path / folder / "s.tar"), tmp_path).fingerprint)
    assert prints[0] == prints[1] and len(set(prints)) == 3

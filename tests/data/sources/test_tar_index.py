"""The walk over tar headers, against Python's tarfile, and the index files made from it."""

import io
import itertools
import os
import random
import subprocess
import tarfile
import time

import numpy as np
import pytest

from data.io.storage import File, find_files
from data.sources.tar_index import (
    DamagedArchive,
    build_index,
    ensure_indexes,
    index_members,
    index_path,
    read_summary,
    walk,
)
from tests.data.shard_files import labelled, members, png, write_shard, write_tar


def walked(content: bytes) -> list:
    return list(walk(lambda start, stop: content[start:stop], len(content)))


def by_tarfile(content: bytes) -> list:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [(member.name, member.offset_data, member.size) for member in archive if member.isfile()]


NAMES = [
    "a.jpg",
    "deep/er/b.json",
    "x" * 99 + ".png",
    "y" * 180 + ".png",
    "long/" * 60 + "z.webp",
    "Ünïcode 日本.jpg",
    "é" * 90,
]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(tmp_path, kind):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=kind) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for number, name in enumerate(NAMES):
            member = tarfile.TarInfo(name)
            member.size = number * 300
            member.mtime = 1.5  # pax writes fractions into an extended header
            try:
                archive.addfile(member, io.BytesIO(bytes([number + 1]) * member.size))
            except ValueError:
                assert kind == tarfile.USTAR_FORMAT  # which has no room for long names
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
    content = path.read_bytes()
    assert [tuple(member) for member in walked(content)] == by_tarfile(content)
    assert len(walked(content)) == (3 if kind == tarfile.USTAR_FORMAT else len(NAMES))


def test_sizes_beyond_octal_digits_are_read():
    header = bytearray(tarfile.TarInfo("big.jpg").tobuf(tarfile.GNU_FORMAT))
    size = 9 << 33
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    end = 512 + size
    found = walk(lambda start, stop: bytes(header) if start == 0 else b"\0" * (stop - start), end + 1024)
    assert [tuple(member) for member in found] == [("big.jpg", 512, size)]


@pytest.mark.parametrize("cut", [100, 512, 513, 700, 5000, -1024])
def test_a_cut_archive_yields_what_is_whole_and_tells_where_it_ends(tmp_path, cut):
    content = write_shard(tmp_path / "s.tar", labelled(9, size=(30, 30))).read_bytes()
    content = content[: by_tarfile(content)[-1][1] + 1024][:cut]
    whole = []
    with pytest.raises(DamagedArchive, match="cut off at byte"):
        for member in walk(lambda start, stop: content[start:stop], len(content)):
            whole.append(tuple(member))
    original = by_tarfile((tmp_path / "s.tar").read_bytes())
    assert whole == original[: len(whole)] and len(whole) >= sum(o + s <= len(content) for _, o, s in original)


def test_a_damaged_header_ends_the_walk_there(tmp_path):
    content = bytearray(write_shard(tmp_path / "s.tar", labelled(5)).read_bytes())
    third = by_tarfile(bytes(content))[4][1] - 512
    content[third + 3] ^= 1
    index = index_members(walk(lambda start, stop: bytes(content[start:stop]), len(content)))
    assert len(index.spans) == 2 and index.problem == f"there is no header at byte {third:,}"


def test_fuzzed_archives_never_break_the_walk(tmp_path):
    """Whatever the bytes, the walk ends, in time, with members that lie in sane places."""
    names = [(name, bytes([7]) * 600) for name in NAMES]
    originals = [
        write_tar(tmp_path / "pax.tar", names).read_bytes(),
        write_tar(tmp_path / "gnu.tar", names, kind=tarfile.GNU_FORMAT).read_bytes(),
        write_shard(tmp_path / "s.tar", labelled(6)).read_bytes(),
    ]
    rng, began = random.Random(0), time.monotonic()
    for trial in range(3000):
        content = bytearray(originals[trial % 3])
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(content))
            if rng.random() < 0.5:  # most damage is to be in headers
                at = at // 512 * 512 + rng.choice([0, 124, 130, 135, 148, 156, 157, 257, 345])
            content[min(at, len(content) - 1)] = rng.randrange(256)
        if rng.random() < 0.5:  # headers that are damaged, with checksums that fit
            for at in range(0, len(content) - 512, 512):
                if content[at + 257 : at + 262] == b"ustar":
                    content[at + 148 : at + 156] = b" " * 8
                    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
        content = bytes(content)
        index = index_members(walk(lambda start, stop, content=content: content[start:stop], len(content)))
        there = index.spans[index.spans[:, :, 0] >= 0]
        assert (there[:, 0] % 512 == 0).all() and (there[:, 0] <= len(content)).all() and (there[:, 1] >= 0).all()
        index.names.decode("utf-8")
    assert time.monotonic() - began < 60


def keys_and_parts(path):
    index = build_index(find_files(str(path))[0])
    ends = [0, *index.name_ends.tolist()]
    names = [index.names[a:b].decode() for a, b in itertools.pairwise(ends)]
    return [
        (name, [int(part) for part in np.flatnonzero(row[:, 0] >= 0)])
        for name, row in zip(names, index.spans, strict=True)
    ]


def test_samples_are_grouped_as_webdataset_does(tmp_path):
    listed = [
        "d.1/a.jpg",
        "d.1/a.json",
        "b.txt",
        "b.PNG",
        "c.seg.png",
        "c.jpg",
        "readme",
        "notes.md",
        "e.cls",
        "e.avif",
    ]
    path = write_tar(tmp_path / "s.tar", [(name, b"x") for name in listed])
    assert keys_and_parts(path) == [("d.1/a", [0, 1]), ("b", [0, 2]), ("c", [0]), ("e", [0, 3])]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_the_image_of_a_sample_is_the_one_with_the_plain_suffix(tmp_path, order):
    listed = [("a.jpg", b"image"), ("a.seg.png", b"mask"), ("a.json", b"{}"), ("a.depth.png", b"depth")]
    path = write_tar(tmp_path / "s.tar", [listed[number] for number in order])
    index = build_index(find_files(str(path))[0])
    offset, size = index.spans[0, 0]
    assert len(index.spans) == 1 and path.read_bytes()[offset : offset + size] == b"image"


def test_zeros_in_the_middle_are_damage(tmp_path):
    content = bytearray(write_shard(tmp_path / "s.tar", labelled(9)).read_bytes())
    at = by_tarfile(bytes(content))[8][1] - 512
    content[at : at + 512] = bytes(512)
    index = index_members(walk(lambda start, stop: bytes(content[start:stop]), len(content)))
    assert len(index.spans) == 4 and index.problem == f"there are zeros in place of a header at byte {at:,}"


def test_sparse_files_are_passed_over(tmp_path):
    with open(tmp_path / "holes.bin", "wb") as file:
        for number in range(30):
            file.seek(number * 100_000)
            file.write(b"x" * 4096)
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    for kind in ("gnu", "oldgnu"):
        archive = tmp_path / f"{kind}.tar"
        names = ["0.png", "holes.bin", "1.png"]
        subprocess.run(["tar", "-S", f"--format={kind}", "-cf", archive, "-C", tmp_path, *names], check=True)
        assert keys_and_parts(archive) == [("0", [0]), ("1", [0])]


def test_another_user_reads_the_index_and_makes_a_new_one_elsewhere(tmp_path, monkeypatch):
    file = find_files(str(write_shard(tmp_path / "s.tar", labelled(3))))[0]
    [(where, _)] = ensure_indexes([file], tmp_path / "cache")
    assert where.stat().st_mode & 0o444 == 0o444
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert index_path(file, tmp_path / "cache") == where  # it can be read
    where.write_bytes(b"old")
    assert index_path(file, tmp_path / "cache").is_relative_to(tmp_path / "cache")


def test_parts_that_lie_apart_are_one_sample_and_a_repeated_name_is_another(tmp_path):
    listed = ["a.jpg", "b.jpg", "a.json", "b.json", "a.jpg", "a.json"]
    path = write_tar(tmp_path / "s.tar", [(name, b"x") for name in listed])
    assert keys_and_parts(path) == [("a", [0, 1]), ("b", [0, 1]), ("a", [0, 1])]


def test_an_index_is_built_once_and_again_when_the_shard_changes(tmp_path):
    path = write_shard(tmp_path / "s.tar", labelled(3))
    file = find_files(str(path))[0]
    [(where, summary)] = ensure_indexes([file], tmp_path / "cache")
    assert where == tmp_path / ".tar-index" / "s.tar.safetensors" and summary.samples == 3
    built = where.stat().st_mtime_ns
    ensure_indexes(find_files(str(path)), tmp_path / "cache")
    assert where.stat().st_mtime_ns == built
    write_shard(path, labelled(5))
    assert read_summary(where, find_files(str(path))[0]) is None
    assert ensure_indexes(find_files(str(path)), tmp_path / "cache")[0][1].samples == 5
    os.utime(path, ns=(1, 1))  # the same size, another time
    assert read_summary(where, find_files(str(path))[0]) is None


def test_an_index_of_a_folder_that_cannot_be_written_lies_in_the_cache(tmp_path, monkeypatch):
    file = find_files(str(write_shard(tmp_path / "s.tar", labelled(3))))[0]
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    where = index_path(file, tmp_path / "cache")
    assert where.is_relative_to(tmp_path / "cache" / ".tar-index")
    remote = [index_path(File(f"s3://bucket/{folder}/s.tar", 3, "x"), tmp_path / "cache") for folder in ("a", "b")]
    assert remote[0] != remote[1] and all(path.is_relative_to(tmp_path / "cache") for path in remote)


def test_a_damaged_index_is_built_again(tmp_path):
    file = find_files(str(write_shard(tmp_path / "s.tar", labelled(3))))[0]
    [(where, _)] = ensure_indexes([file], tmp_path)
    for damage in (b"", b"\xff" * 20, where.read_bytes()[:30]):
        where.write_bytes(damage)
        assert ensure_indexes([file], tmp_path)[0][1].samples == 3
        assert read_summary(where, file).samples == 3


def test_many_shards_are_indexed_by_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.tar_index._ALONE", 0)
    for number in range(5):
        write_shard(tmp_path / f"{number}.tar", labelled(number + 1))
    found = ensure_indexes(find_files(str(tmp_path / "*.tar")), tmp_path)
    assert [summary.samples for _, summary in found] == [1, 2, 3, 4, 5]


def test_a_compressed_shard_is_refused_with_the_way_out(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w:gz") as archive:
        archive.add(write_shard(tmp_path / "plain", labelled(2)))
    with pytest.raises(ValueError, match=r"s\.tar is compressed.*decompress it"):
        build_index(find_files(str(tmp_path / "s.tar"))[0])


def test_names_that_climb_or_are_absolute_are_only_names(tmp_path):
    listed = [("../../outside/x.png", b"p"), ("/absolute/x.json", b"{}"), ("/absolute/x.png", b"p")]
    path = write_tar(tmp_path / "s.tar", listed)
    assert keys_and_parts(path) == [("../../outside/x", [0]), ("/absolute/x", [0, 1])]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.tar"]


def test_members_are_a_small_part_of_what_is_read(tmp_path):
    content = write_tar(tmp_path / "s.tar", [*members(labelled(3)), ("big.jpg", b"x" * 5000000)]).read_bytes()
    read = 0

    def part(start, stop):
        nonlocal read
        read += stop - start
        return content[start:stop]

    assert len(list(walk(part, len(content)))) == 7 and read < 20_000

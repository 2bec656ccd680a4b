"""Index files of tar shards: grouping of members into samples, damage, caching."""

import itertools
import os
import random
import subprocess
import tarfile
import time

import numpy as np
import pytest

from data.io.storage import File, find_files
from data.sources.tar_headers import iter_members
from data.sources.tar_index import build_index, ensure_indexes, index_path, read_summary
from data.sources.tar_samples import index_members
from tests.data.shard_files import labelled, png, write_shard, write_tar
from tests.data.sources.test_tar_headers import NAMES, by_tarfile


def index_of(content: bytes):
    return index_members(iter_members(lambda start, stop: bytes(content[start:stop]), len(content)))


def test_samples_before_a_damaged_header_are_kept(tmp_path):
    content = bytearray(write_shard(tmp_path / "s.tar", labelled(5)).read_bytes())
    third = by_tarfile(bytes(content))[4][1] - 512
    content[third + 3] ^= 1
    index = index_of(content)
    assert len(index.spans) == 2 and index.problem == f"no valid header at byte {third:,}"


def test_fuzzed_archives_can_be_indexed(tmp_path):
    """Indexing ends in time for any bytes, with plausible positions."""
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
            if rng.random() < 0.5:  # concentrate the damage in headers
                at = at // 512 * 512 + rng.choice([0, 124, 130, 135, 148, 156, 157, 257, 345])
            content[min(at, len(content) - 1)] = rng.randrange(256)
        if rng.random() < 0.5:  # damaged headers with valid checksums
            for at in range(0, len(content) - 512, 512):
                if content[at + 257 : at + 262] == b"ustar":
                    content[at + 148 : at + 156] = b" " * 8
                    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
        content = bytes(content)
        index = index_of(content)
        present = index.spans[index.spans[:, :, 0] >= 0]
        assert (present[:, 0] % 512 == 0).all() and (present[:, 0] <= len(content)).all() and (present[:, 1] >= 0).all()
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


def test_samples_are_grouped_as_in_webdataset(tmp_path):
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
def test_a_plain_suffix_takes_precedence_for_the_image(tmp_path, order):
    listed = [("a.jpg", b"image"), ("a.seg.png", b"mask"), ("a.json", b"{}"), ("a.depth.png", b"depth")]
    path = write_tar(tmp_path / "s.tar", [listed[number] for number in order])
    index = build_index(find_files(str(path))[0])
    offset, size = index.spans[0, 0]
    assert len(index.spans) == 1 and path.read_bytes()[offset : offset + size] == b"image"


def test_zeros_before_the_end_are_damage(tmp_path):
    content = bytearray(write_shard(tmp_path / "s.tar", labelled(9)).read_bytes())
    at = by_tarfile(bytes(content))[8][1] - 512
    content[at : at + 512] = bytes(512)
    index = index_of(content)
    assert len(index.spans) == 4 and index.problem == f"zeros instead of a header at byte {at:,}"


def test_sparse_files_are_skipped(tmp_path):
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


def test_an_index_next_to_the_shards_is_kept_only_if_asked(tmp_path, monkeypatch):
    file = find_files(str(write_shard(tmp_path / "photos" / "s.tar", labelled(3))))[0]
    [(where, _)] = ensure_indexes([file], tmp_path / "cache")
    assert where.is_relative_to(tmp_path / "cache") and where.stat().st_mode & 0o444 == 0o444
    assert [entry.name for entry in (tmp_path / "photos").iterdir()] == ["s.tar"]
    (tmp_path / "photos" / ".tar-index").mkdir()
    [(where, _)] = ensure_indexes([file], tmp_path / "cache")
    assert where == tmp_path / "photos" / ".tar-index" / "s.tar.safetensors" and where.is_file()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert index_path(file, tmp_path / "cache") == where  # readable
    where.write_bytes(b"old")
    assert index_path(file, tmp_path / "cache").is_relative_to(tmp_path / "cache")


def test_separated_parts_form_one_sample_and_a_repeated_name_starts_another(tmp_path):
    listed = ["a.jpg", "b.jpg", "a.json", "b.json", "a.jpg", "a.json"]
    path = write_tar(tmp_path / "s.tar", [(name, b"x") for name in listed])
    assert keys_and_parts(path) == [("a", [0, 1]), ("b", [0, 1]), ("a", [0, 1])]


def test_an_index_is_rebuilt_only_when_the_shard_changes(tmp_path):
    path = write_shard(tmp_path / "s.tar", labelled(3))
    file = find_files(str(path))[0]
    [(where, summary)] = ensure_indexes([file], tmp_path / "cache")
    assert where.name == "s.tar.safetensors" and summary.samples == 3
    built = where.stat().st_mtime_ns
    ensure_indexes(find_files(str(path)), tmp_path / "cache")
    assert where.stat().st_mtime_ns == built
    write_shard(path, labelled(5))
    assert read_summary(where, find_files(str(path))[0]) is None
    assert ensure_indexes(find_files(str(path)), tmp_path / "cache")[0][1].samples == 5
    os.utime(path, ns=(1, 1))  # same size, other time
    assert read_summary(where, find_files(str(path))[0]) is None


def test_indexes_in_the_cache_do_not_collide_and_their_names_fit(tmp_path):
    addresses = [
        *(f"s3://bucket/{folder}/s.tar" for folder in "ab"),
        *(f"{tmp_path}/{folder}/s.tar" for folder in "ab"),
    ]
    paths = [index_path(File(address, 3, "x"), tmp_path / "cache") for address in addresses]
    assert len(set(paths)) == 4 and all(path.is_relative_to(tmp_path / "cache" / ".tar-index") for path in paths)
    long = write_shard(tmp_path / ("鳥" * 83 + ".tar"), labelled(2))
    [(where, summary)] = ensure_indexes(find_files(str(long)), tmp_path / "cache")
    assert where.is_file() and summary.samples == 2


def test_a_cache_in_the_folder_of_the_shards_is_not_taken_for_a_wish(tmp_path):
    files = find_files(str(write_shard(tmp_path / "s.tar", labelled(3))))
    [(first, _)], [(second, _)] = ensure_indexes(files, tmp_path), ensure_indexes(files, tmp_path)
    assert first == second


def test_a_damaged_index_is_rebuilt(tmp_path):
    file = find_files(str(write_shard(tmp_path / "s.tar", labelled(3))))[0]
    [(where, _)] = ensure_indexes([file], tmp_path)
    for damage in (b"", b"\xff" * 20, where.read_bytes()[:30]):
        where.write_bytes(damage)
        assert ensure_indexes([file], tmp_path)[0][1].samples == 3
        assert read_summary(where, file).samples == 3


def test_many_shards_are_indexed_by_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.tar_index._SERIAL_BYTES", 0)
    for number in range(5):
        write_shard(tmp_path / f"{number}.tar", labelled(number + 1))
    found = ensure_indexes(find_files(str(tmp_path / "*.tar")), tmp_path)
    assert [summary.samples for _, summary in found] == [1, 2, 3, 4, 5]


def test_a_compressed_shard_is_rejected_with_the_fix(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w:gz") as archive:
        archive.add(write_shard(tmp_path / "plain", labelled(2)))
    with pytest.raises(ValueError, match=r"s\.tar is compressed.*Decompress it"):
        build_index(find_files(str(tmp_path / "s.tar"))[0])


def test_names_that_leave_the_folder_are_only_names(tmp_path):
    listed = [("../../outside/x.png", b"p"), ("/absolute/x.json", b"{}"), ("/absolute/x.png", b"p")]
    path = write_tar(tmp_path / "s.tar", listed)
    assert keys_and_parts(path) == [("../../outside/x", [0]), ("/absolute/x", [0, 1])]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.tar"]

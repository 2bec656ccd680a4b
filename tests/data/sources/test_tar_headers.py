"""Reading tar headers, compared with Python's tarfile."""

import io
import tarfile

import pytest

from data.sources.tar_headers import DamagedArchive, iter_members
from tests.data.shard_files import labelled, members, write_shard, write_tar


def members_of(content: bytes) -> list:
    return list(iter_members(lambda start, stop: content[start:stop], len(content)))


def by_tarfile(content: bytes) -> list:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [(member.name, member.offset_data, member.size) for member in archive if member.isfile()]


def files_of(content: bytes) -> list:
    return [member[:3] for member in members_of(content) if not member.target]


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
def test_members_equal_those_of_tarfile(tmp_path, kind):
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
                assert kind == tarfile.USTAR_FORMAT  # this format has no room for long names
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
    content = path.read_bytes()
    assert files_of(content) == by_tarfile(content)
    assert [member[3:5] for member in members_of(content) if member.target] == [("a.jpg", 0)]
    assert len(files_of(content)) == (3 if kind == tarfile.USTAR_FORMAT else len(NAMES))


def test_sizes_beyond_octal_digits_are_parsed():
    header = bytearray(tarfile.TarInfo("big.jpg").tobuf(tarfile.GNU_FORMAT))
    size = 9 << 33
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    end = 512 + size
    found = iter_members(lambda start, stop: bytes(header) if start == 0 else b"\0" * (stop - start), end + 1024)
    assert [member[:3] for member in found] == [("big.jpg", 512, size)]


@pytest.mark.parametrize("cut", [100, 512, 513, 700, 5000, -1024])
def test_a_truncated_archive_yields_its_complete_members_and_the_place_of_the_cut(tmp_path, cut):
    content = write_shard(tmp_path / "s.tar", labelled(9, size=(30, 30))).read_bytes()
    content = content[: by_tarfile(content)[-1][1] + 1024][:cut]
    whole = []
    with pytest.raises(DamagedArchive, match="truncated at byte"):
        for member in iter_members(lambda start, stop: content[start:stop], len(content)):
            whole.append(member[:3])
    original = by_tarfile((tmp_path / "s.tar").read_bytes())
    assert whole == original[: len(whole)] and len(whole) >= sum(o + s <= len(content) for _, o, s in original)


def test_only_headers_are_read(tmp_path):
    content = write_tar(tmp_path / "s.tar", [*members(labelled(3)), ("big.jpg", b"x" * 5000000)]).read_bytes()
    read = 0

    def part(start, stop):
        nonlocal read
        read += stop - start
        return content[start:stop]

    assert len(list(iter_members(part, len(content)))) == 7 and read < 20_000

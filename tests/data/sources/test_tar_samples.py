"""Samples of a shard by the names of its files: names with dots, links, joined archives, and all image formats."""

import io
import itertools
import json
import random
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

from data.pipeline.image_ops import decode
from data.sources.image_folders import SUFFIXES
from data.sources.open import open_source
from data.sources.tar_headers import DamagedArchive, TarMember, iter_members
from data.sources.tar_samples import PARTS, index_members
from tests.data.shard_files import png, write_tar


def samples_of(names):
    """Return key → part → name of the file, as grouped by `index_members`; every position is a number of a name."""
    index = index_members(TarMember(name, number, 1) for number, name in enumerate(names))
    ends = [0, *index.name_ends.tolist()]
    keys = [index.names[start:stop].decode() for start, stop in itertools.pairwise(ends)]
    found = [
        (key, {part: names[offset] for part, (offset, size) in zip(PARTS, row.tolist(), strict=True) if offset >= 0})
        for key, row in zip(keys, index.spans, strict=True)
    ]
    return found, index.notes


def pairs(*stems, image="jpg", text="txt"):
    return [f"{stem}.{suffix}" for stem in stems for suffix in (image, text)]


@pytest.mark.parametrize(
    "stems",
    [
        ("holiday.2023.01", "holiday.2023.02", "holiday.2023.03", "holiday.2023.04"),
        ("a", "a.b"),
        ("a.b", "a"),
        ("a.b", "a.b.c", "a.c"),
        ("x.1.5", "x.1.6", "x.2"),
        ("d.ir/a.1", "d.ir/a.2", "d.ir/b"),
        ("v1.0", "v1.1", "other"),
        ("photo.jpg", "photo.png"),
        ("A.B", "a.b", "a.B", "a.B2"),
        ("Holiday.JPG", "Holiday.jpg", "Holiday.Png"),
    ],
)
def test_every_name_with_its_own_image_and_text_is_a_sample(stems):
    for image, text in itertools.product(("jpg", "PNG", "tiff"), ("txt", "json", "cls", "TXT")):
        names = pairs(*stems, image=image, text=text)
        shuffled = random.Random(0).sample(names, len(names))
        expected = {frozenset(pairs(stem, image=image, text=text)) for stem in stems}
        for ordered in (names, names[::2] + names[1::2], names[::-1], shuffled):
            found, notes = samples_of(ordered)
            assert {frozenset(parts.values()) for _, parts in found} == expected and len(found) == len(stems)
            assert len({key for key, _ in found}) == len(stems) and notes.ambiguous == 0


@pytest.mark.parametrize(
    ("names", "expected", "notes"),
    [  # names, then key → names of the parts
        # webdataset's names of parts: one sample
        ("a.jpg a.json a.seg.png", {"a": "a.jpg a.json"}, "ambiguous"),
        ("a.seg.png a.jpg a.json", {"a": "a.jpg a.json"}, "ambiguous"),
        ("a.jpg a.caption.txt a.meta.json", {"a": "a.jpg a.meta.json a.caption.txt"}, ""),
        ("a.0.jpg a.1.jpg a.json", {"a": "a.0.jpg a.json"}, "ambiguous"),
        ("a.jpg a.en.txt a.de.txt", {"a": "a.jpg a.en.txt"}, "ambiguous"),
        ("a.img.jpg a.img.txt", {"a": "a.img.jpg a.img.txt"}, ""),
        ("a.img.jpg a.caption.txt", {"a": "a.img.jpg a.caption.txt"}, ""),
        ("a.jpg a.jpg.txt b.png b.png.json", {"a": "a.jpg a.jpg.txt", "b": "b.png b.png.json"}, ""),
        ("a.JPG a.JPG.txt b.jpg B.txt", {"a": "a.JPG a.JPG.txt", "b": "b.jpg", "B": "B.txt"}, ""),
        ("a.jpg a.png a.txt", {"a": "a.jpg a.txt"}, "ambiguous"),
        # names with dots: several samples
        ("a.1.jpg a.1.txt a.2.jpg a.2.txt a.1.m.png", {"a.1": "a.1.jpg a.1.txt", "a.2": "a.2.jpg a.2.txt"}, "both"),
        ("a.1.jpg a.1.jpg.txt a.2.jpg a.2.cls", {"a.1": "a.1.jpg a.1.jpg.txt", "a.2": "a.2.jpg a.2.cls"}, "divided"),
        ("a.1.jpg a.1.txt a.2.jpg", {"a.1": "a.1.jpg a.1.txt", "a.2": "a.2.jpg"}, "divided"),
        ("a.1.jpg a.1.txt a.2.txt", {"a.1": "a.1.jpg a.1.txt", "a.2": "a.2.txt"}, "divided"),
        ("a.1.jpg a.1.txt a.2.jpg a.2.txt a.cls", {n: f"{n}.jpg {n}.txt a.cls" for n in ("a.1", "a.2")}, "divided"),
        ("a.1.jpg a.2.jpg a.3.png", {"a.1": "a.1.jpg", "a.2": "a.2.jpg", "a.3": "a.3.png"}, "divided"),
        # no samples at all
        ("readme .hidden.jpg x/._a.jpg notes.md a.npy", {}, ""),
    ],
)  # fmt: skip
def test_other_files_belong_to_the_sample_that_their_names_begin_with(names, expected, notes):
    found, counted = samples_of(names.split())
    assert {key: sorted(parts.values()) for key, parts in found} == {
        key: sorted(files.split()) for key, files in expected.items()
    }
    assert (counted.divided > 0, counted.ambiguous > 0) == (
        notes in ("divided", "both"),
        notes in ("ambiguous", "both"),
    )


def test_no_image_gets_the_text_of_another_whatever_the_names():
    """Fuzz: where every name has an image and a text, the samples are exactly these names."""
    rng = random.Random(0)
    for _ in range(300):
        words = ["a", "b", "1", "2023", "jpg", "seg"]
        stems = {".".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 6))}
        names = pairs(*stems)
        if rng.random() < 0.5:
            rng.shuffle(names)
        found, _ = samples_of(names)
        assert sorted(sorted(parts.values()) for _, parts in found) == sorted(sorted(pairs(stem)) for stem in stems)


def test_many_samples_with_one_beginning_are_grouped_in_time():
    names = [*pairs(*(f"cc.{number:06}" for number in range(5_000))), *(f"cc.{n:06}.seg.png" for n in range(5_000))]
    found, notes = samples_of([*names, "cc.json"])
    assert len(found) == notes.divided == 5_000 and notes.joined == 1
    assert found[7][1] == {"image": "cc.000007.jpg", "json": "cc.json", "txt": "cc.000007.txt"}


def test_names_with_dots_are_counted_and_logged_once(tmp_path, said):
    for shard in range(2):
        parts = [(f"holiday.{shard}.{number}", number) for number in range(3)]
        files = [(f"{stem}.png", png(number)) for stem, number in parts] + [(f"{stem}.txt", b"x") for stem, _ in parts]
        write_tar(tmp_path / f"{shard}.tar", [*files, ("b.png", png(0)), ("b.mask.png", png(1)), ("b.txt", b"x")])
    for _ in range(2):  # the second time from the index
        said.clear()
        source = open_source(str(tmp_path / "*.tar"), tmp_path / "cache")
        assert len(source) == 8 and source[1].image == png(1)
        assert source.key(1) == "0.tar/holiday.0.1"
        divided, ambiguous = said
        assert divided.startswith("warning: 6 samples have dots in their names, such as 0.tar/holiday.0.0")
        assert divided.endswith("they would be 2 samples.")
        assert ambiguous.startswith("warning: 2 samples have several files for their image or a text, such as 0.tar/b;")


def add_link(archive, name, target, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    archive.addfile(member)


def add_file(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


LONG = "folder/" * 20 + "a.png"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [
        (tarfile.LNKTYPE, "b.png", "a.png"),
        (tarfile.LNKTYPE, "./x/b.png", "a.png"),
        (tarfile.LNKTYPE, "b.png", "./a.png"),
        (tarfile.LNKTYPE, "b.png", LONG),
        (tarfile.SYMTYPE, "b.png", "a.png"),
        (tarfile.SYMTYPE, "x/b.png", "../a.png"),
        (tarfile.SYMTYPE, "b.png", LONG),
        (tarfile.SYMTYPE, "b.png", "last.png"),  # behind the link
        (tarfile.SYMTYPE, "b.png", "x/link.png"),  # to another link, behind it
    ],
)
def test_a_link_has_the_content_of_its_target(tmp_path, form, kind, name, target):
    if form == tarfile.USTAR_FORMAT and target == LONG:
        target = "a.png"  # this format has no room for long targets
    with tarfile.open(tmp_path / "s.tar", "w", format=form) as archive:
        for file in ["a.png", *([LONG] if target == LONG else [])]:
            add_file(archive, file, png(len(file)))
        add_link(archive, name, target, kind)
        add_file(archive, name.replace("png", "txt"), b"caption")
        add_link(archive, "x/link.png", "../last.png", tarfile.SYMTYPE)
        add_file(archive, "last.png", png(7))
    with tarfile.open(tmp_path / "s.tar") as archive:
        member = next(each for each in archive if each.name == name)
        expected = archive.extractfile(member).read()
    source = open_source(str(tmp_path / "s.tar"), tmp_path / "cache")
    record = next(source[index] for index in range(len(source)) if source[index].texts == ("caption",))
    assert record.image == expected


def test_links_without_a_target_in_the_shard_are_counted_and_left_out(tmp_path, said):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        add_file(archive, "a.png", png(0))
        add_link(archive, "b.png", "../outside.png", tarfile.SYMTYPE)
        add_link(archive, "c.png", "c.png", tarfile.SYMTYPE)  # to itself
        add_link(archive, "d.png", "e.png", tarfile.SYMTYPE)  # in a circle
        add_link(archive, "e.png", "d.png", tarfile.SYMTYPE)
    source = open_source(str(tmp_path / "s.tar"), tmp_path / "cache")
    assert [source.key(index) for index in range(len(source))] == ["s.tar/a"]
    [line] = said
    assert line.startswith(
        "warning: 4 links, such as s.tar/b.png, lead to files that are not in their shard, and are left out."
    )


def archive_of(*numbers):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in numbers:
            add_file(archive, f"{number}.png", png(number))
            add_file(archive, f"{number}.txt", str(number).encode())
    return buffer.getvalue()


@pytest.mark.parametrize("padding", [0, 512, 513, 10_240, 1 << 20])
@pytest.mark.parametrize("joined", [((0, 1),), ((0,), (1,)), ((0, 1), (0,), (2, 3)), ((), (1,), (), (2,))])
def test_joined_and_padded_archives_have_all_their_samples(tmp_path, joined, padding, said):
    inner = b"\0" * (padding // 512 * 512)
    content = inner.join(archive_of(*numbers) for numbers in joined) + b"\0" * padding
    (tmp_path / "s.tar").write_bytes(content)
    source = open_source(str(tmp_path / "s.tar"), tmp_path / "cache")
    expected = [number for numbers in joined for number in numbers]
    assert [source[index].texts[0] for index in range(len(source))] == list(map(str, expected))
    assert [source[index].image for index in range(len(source))] == [png(number) for number in expected]
    assert not said


def test_files_of_different_archives_are_not_one_sample(tmp_path):
    first, second = (tmp_path / name for name in ("a", "b"))
    write_tar(first, [("0.png", png(0)), ("1.png", png(1)), ("1.txt", b"one")])
    write_tar(second, [("0.txt", b"of another image"), ("0.png", png(2))])
    (tmp_path / "s.tar").write_bytes(first.read_bytes() + second.read_bytes())
    source = open_source(str(tmp_path / "s.tar"), tmp_path / "cache")
    assert [(source[i].image, source[i].texts) for i in range(3)] == [
        (png(0), ()),
        (png(1), ("one",)),
        (png(2), ("of another image",)),
    ]


def test_damage_between_joined_archives_is_reported():
    content = archive_of(0) + b"not an archive" * 100 + archive_of(1)
    with pytest.raises(DamagedArchive, match="zeros instead of a header"):
        list(iter_members(lambda start, stop: content[start:stop], len(content)))


@pytest.mark.parametrize("suffix", [*(suffix.removeprefix(".") for suffix in SUFFIXES), "JPG", "Tiff"])
def test_images_of_every_format_are_images_of_samples(tmp_path, suffix):
    pixels = np.full((12, 16, 3), (200, 100, 50), np.uint8)
    kind = {"jpe": "jpeg", "jfif": "jpeg", "jpg": "jpeg", "tif": "tiff"}.get(suffix.lower(), suffix.lower())
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    path = write_tar(tmp_path / "s.tar", [(f"a.{suffix}", buffer.getvalue()), ("a.txt", b"a caption")])
    record = open_source(str(path), tmp_path / "cache")[0]
    assert record.texts == ("a caption",)
    assert np.abs(np.asarray(decode(record.image, record.key)).astype(int) - pixels).max() <= 6


SYSTEM_FILES = [
    "__MACOSX/0.png",
    "__MACOSX/a/._0.png",
    "a/__MACOSX/1.png",
    "._0.png",
    "a/._1.txt",
    ".DS_Store",
    "Thumbs.db",
]


@pytest.mark.parametrize("name", SYSTEM_FILES)
def test_files_of_operating_systems_are_no_samples(tmp_path, said, name):
    path = write_tar(tmp_path / "s.tar", [(name, b"x"), ("0.png", png(0)), ("0.txt", b"text"), (f"b/{name}", b"x")])
    for _ in range(2):  # the second time from the index
        said.clear()
        source = open_source(str(path), tmp_path / "cache")
        assert len(source) == 1 and source[0].image == png(0) and source[0].texts == ("text",)
        assert said == [f"warning: 2 files that macOS or Windows added, such as s.tar/{name}, are left out."]


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "jxl", "svg"])
def test_images_that_cannot_be_read_are_counted(tmp_path, said, suffix):
    path = write_tar(tmp_path / "s.tar", [(f"0.{suffix}", b"x"), (f"1.{suffix}", b"x"), ("2.png", png(0))])
    assert len(open_source(str(path), tmp_path / "cache")) == 1
    assert f"2 images, such as s.tar/0.{suffix}, have a format that cannot be read" in said[0]
    path = write_tar(tmp_path / "only.tar", [(f"0.{suffix}", b"x")])
    with pytest.raises(ValueError, match=r"no sample in .*only\.tar \(1 images, such as .*Convert them to JPEG or PNG"):
        open_source(str(path), tmp_path / "cache")


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=oldgnu"],
        *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
    ],
)
def test_sparse_images_are_left_out_and_counted(tmp_path, said, options):
    with open(tmp_path / "0.png", "wb") as file:
        file.write(png(0))
        file.seek(1 << 20)
        file.write(b"x" * 4096)
    (tmp_path / "1.png").write_bytes(png(1))
    archive = tmp_path / "s.tar"
    subprocess.run(["tar", "-S", *options, "-cf", archive, "-C", tmp_path, "0.png", "1.png"], check=True)
    source = open_source(str(archive), tmp_path / "cache")
    assert len(source) == 1 and source.key(0) == "s.tar/1" and source[0].image == png(1)
    assert said == [
        "warning: 1 files, such as s.tar/0.png, are stored with holes and are left out. Write the shard without "
        "tar --sparse (-S)."
    ]


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_empty_fields_do_not_hide_other_files(tmp_path, empty):
    fields = {"label": empty, "caption": empty, "text": empty, "class": empty}
    files = [("0.png", png(0)), ("0.json", json.dumps(fields).encode()), ("0.txt", b"a text"), ("0.cls", b"3")]
    source = open_source(str(write_tar(tmp_path / "s.tar", files)), tmp_path / "cache")
    assert source[0].texts == source.texts(0) == ("a text",)
    assert (source[0].label, source[0].class_name) == (3, None)
    fields |= {"caption": "of json", "label": 5}
    files = [*files[:1], ("0.json", json.dumps(fields).encode()), ("0.txt", b" \n"), ("0.cls", b"3")]
    source = open_source(str(write_tar(tmp_path / "t.tar", files)), tmp_path / "cache")
    assert source[0].texts == ("of json",) and source[0].label == 5

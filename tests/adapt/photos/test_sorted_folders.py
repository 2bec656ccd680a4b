"""Copies of and links to classified images: names, interruptions, and files that are not ours."""

import os
import pathlib
import shutil

import pytest

from adapt.photos.sorted_folders import distinct_file_names, report_sorted, sort_into_folders
from foundation.files.json_lines import read_json_lines, write_json_lines
from tests.adapt.photos.results import make_result


def write(root, paths):
    for path in paths:
        file = pathlib.Path(os.fsdecode(os.path.join(os.fsencode(root / "query"), os.fsencode(path))))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"image " + os.fsencode(path))
        os.utime(file, (1_600_000_000, 1_600_000_000))
    return paths


def sort(result, out, placement="copy", progress=lambda *_: None):
    out.mkdir(exist_ok=True)
    return sort_into_folders(result, out, placement=placement, progress=progress)


def files(out):
    """Return the files of the folders of an output, each with its content."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in ("classes", "far")
        for path in (out / folder).rglob("*")
        if not path.is_dir()
    }


@pytest.mark.parametrize("placement", ["copy", "link"])
def test_images_are_in_the_folder_of_their_class_and_far_ones_apart(tmp_path, placement):
    paths = write(tmp_path, ["a.png", "deep/b.png", "c.png"])
    result = make_result(tmp_path, paths, [0, 1, 1], class_names=("cat", "dog", "owl"), far=[2])
    done = sort(result, tmp_path / "out", placement)
    assert (done.placed, done.kept, done.removed, done.changed, done.blocked) == (3, 0, 0, [], [])
    assert files(tmp_path / "out") == {
        "classes/cat/a.png": b"image a.png",
        "classes/dog/b.png": b"image deep/b.png",
        "far/dog/c.png": b"image c.png",
    }
    assert (tmp_path / "out" / "classes" / "owl").is_dir()
    one = tmp_path / "out" / "classes" / "dog" / "b.png"
    assert one.is_symlink() == (placement == "link")
    if placement == "copy":
        assert one.stat().st_mtime == 1_600_000_000
    assert sort(result, tmp_path / "out", placement)[:3] == (0, 3, 0)


def test_names_that_clash_get_a_hash_of_their_path(tmp_path):
    paths = ["2023/IMG_1.JPG", "2024/img_1.jpg", "caf\u00e9.png", "x/cafe\u0301.png", "alone.png"]
    names = dict(zip(paths, (name for name, _ in distinct_file_names(paths)), strict=True))
    assert names["alone.png"] == "alone.png" and len({name.casefold() for name in names.values()}) == 5
    assert names["2023/IMG_1.JPG"].startswith("IMG_1-") and names["2023/IMG_1.JPG"].endswith(".JPG")
    assert list(distinct_file_names(paths[:2])) == list(distinct_file_names(paths))[:2]  # whatever else there is
    result = make_result(tmp_path, write(tmp_path, paths), [0] * 5)
    sort(result, tmp_path / "out")
    assert set(files(tmp_path / "out").values()) == {b"image " + os.fsencode(path) for path in paths}


HOSTILE = [
    "-rf.png",
    "$(touch x).png",
    "a\nb.png",
    "%2e%2e%2f.png",
    "..png",
    " .png",
    "\u202egnp.png",
    "n" * 240 + ".png",
    "ä" * 120 + ".png",
]


@pytest.mark.parametrize("placement", ["copy", "link"])
def test_hostile_names_stay_within_their_folder(tmp_path, placement):
    result = make_result(tmp_path, write(tmp_path, HOSTILE), [0] * len(HOSTILE), class_names=("..", "-x\n<b>"))
    done = sort(result, tmp_path / "out", placement)
    assert done.placed == len(HOSTILE)
    assert sorted(files(tmp_path / "out").values()) == sorted(b"image " + os.fsencode(path) for path in HOSTILE)
    assert {path.name for path in tmp_path.iterdir()} == {"query", "out"}
    assert sort(result, tmp_path / "out", placement).kept == len(HOSTILE)


def test_a_name_that_is_not_utf_8_is_sorted(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        result = make_result(tmp_path, write(tmp_path, [name]), [0])
    except OSError:
        pytest.skip("this file system accepts only names in UTF-8")
    for placement in ("copy", "link", "link"):
        sort(result, tmp_path / "out", placement)
        assert files(tmp_path / "out") == {"classes/cat/caf\\xe9.png": b"image caf\xe9.png"}


@pytest.mark.parametrize("placement", ["copy", "link"])
def test_a_changed_prediction_moves_the_file(tmp_path, placement):
    paths = write(tmp_path, ["a.png", "b.png"])
    sort(make_result(tmp_path, paths, [0, 1], far=[1]), tmp_path / "out", placement)
    done = sort(make_result(tmp_path, paths, [1, 1]), tmp_path / "out", placement)
    assert (done.placed, done.removed) == (2, 2)
    assert set(files(tmp_path / "out")) == {"classes/dog/a.png", "classes/dog/b.png"}
    assert not (tmp_path / "out" / "far" / "dog").exists() and (tmp_path / "out" / "classes" / "cat").is_dir()
    other = "link" if placement == "copy" else "copy"
    assert sort(make_result(tmp_path, paths, [1, 1]), tmp_path / "out", other).placed == 2
    assert (tmp_path / "out" / "classes" / "dog" / "a.png").is_symlink() == (other == "link")


def test_an_image_that_has_changed_is_copied_again(tmp_path):
    result = make_result(tmp_path, write(tmp_path, ["a.png"]), [0])
    sort(result, tmp_path / "out")
    (tmp_path / "query" / "a.png").write_bytes(b"a new version")
    assert sort(result, tmp_path / "out").placed == 1
    assert files(tmp_path / "out") == {"classes/cat/a.png": b"a new version"}


@pytest.mark.parametrize("placement", ["copy", "link"])
def test_other_files_are_neither_overwritten_nor_removed(tmp_path, placement, said):
    paths = write(tmp_path, ["a.png", "b.png"])
    mine = tmp_path / "out" / "classes" / "cat" / "a.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    sort(make_result(tmp_path, paths, [0, 0]), tmp_path / "out", placement)
    found = files(tmp_path / "out")
    (name,) = [name for name in found if name.startswith("classes/cat/a-")]
    assert found == {"classes/cat/a.png": b"mine", name: b"image a.png", "classes/cat/b.png": b"image b.png"}

    own = tmp_path / "out" / "classes" / "cat" / "b.png"
    own.unlink()
    own.write_bytes(b"rotated by hand")  # in place of a copy or link
    done = sort(make_result(tmp_path, paths, [0, 0]), tmp_path / "out", placement)
    assert done.changed == ["classes/cat/b.png"] and files(tmp_path / "out")["classes/cat/b.png"] == b"rotated by hand"
    report_sorted(done, tmp_path / "out")
    assert "1 files there were changed since an earlier run and are left alone; the first is" in said[-1]
    sort(make_result(tmp_path, paths, [1, 1]), tmp_path / "out", placement)
    found = files(tmp_path / "out")
    assert found["classes/cat/b.png"] == b"rotated by hand" and found["classes/cat/a.png"] == b"mine"
    assert found["classes/dog/a.png"] == b"image a.png" and name not in found


def test_an_image_both_of_whose_names_are_taken_is_reported(tmp_path, said):
    paths = write(tmp_path, ["a.png"])
    folder = tmp_path / "out" / "classes" / "cat"
    folder.mkdir(parents=True)
    for name in next(distinct_file_names(paths)), ("a.png",):
        (folder / name[-1]).write_bytes(b"mine")
    done = sort(make_result(tmp_path, paths, [0]), tmp_path / "out")
    assert done.placed == 0 and len(done.blocked) == 1 and set(files(tmp_path / "out").values()) == {b"mine"}
    report_sorted(done, tmp_path / "out")
    assert "1 images are not sorted, because other files there have their names" in said[-1]


def test_an_interrupted_copy_is_continued(tmp_path, monkeypatch):
    paths = write(tmp_path, [f"{number}.png" for number in range(6)])
    result, out, copied = make_result(tmp_path, paths, [0] * 6), tmp_path / "out", []
    copy = shutil.copy2

    def cut(source, target):
        if len(copied) == 3:
            pathlib.Path(target).write_bytes(b"ima")  # a part, as a kill or a full disk leaves it
            raise OSError(28, "No space left on device")
        copied.append(source)
        return copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", cut)
        with pytest.raises(OSError, match="No space left"):
            sort(result, out)
    assert set(files(out).values()) == {f"image {number}.png".encode() for number in range(3)}
    done = sort(result, out)
    assert (done.placed, done.kept) == (3, 3) and len(files(out)) == 6
    assert {path.name for path in out.iterdir()} == {"classes", "sorted_files.jsonl"}
    assert len(read_json_lines(out / "sorted_files.jsonl")) == 6


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    sort(make_result(tmp_path, write(tmp_path, ["a.png"]), [0]), tmp_path / "out")
    assert files(tmp_path / "out") == {"classes/cat/a.png": b"image a.png"}


def test_without_the_record_files_in_place_are_recognised(tmp_path):
    result = make_result(tmp_path, write(tmp_path, ["a.png"]), [0])
    sort(result, tmp_path / "out")
    (tmp_path / "out" / "sorted_files.jsonl").unlink()
    assert sort(result, tmp_path / "out").kept == 1 and len(files(tmp_path / "out")) == 1


def test_an_interrupted_change_from_links_to_copies_is_continued(tmp_path):
    paths = write(tmp_path, [f"{number}.png" for number in range(4)])
    result, out = make_result(tmp_path, paths, [0] * 4), tmp_path / "out"
    sort(result, out, "link")

    def interrupt(name, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sort(result, out, "copy", interrupt)
    done = sort(result, out, "copy")
    assert (done.placed, done.kept, done.changed) == (2, 2, [])
    assert not any((out / name).is_symlink() for name in files(out))


@pytest.mark.parametrize(
    "row",
    [{"file": "../../precious"}, {"file": "classes/cat/../x", "source": "s", "kind": "copy", "size": 1, "mtime": 0}],
)
def test_a_record_of_other_folders_is_refused(tmp_path, row):
    result, out = make_result(tmp_path, write(tmp_path, ["a.png"]), [0]), tmp_path / "out"
    out.mkdir()
    write_json_lines(out / "sorted_files.jsonl", [row])
    with pytest.raises(ValueError, match=r"is damaged or was changed\. Remove it: files that are in place are recog"):
        sort(result, out)
    assert not (out / "classes").exists()

"""`launch.py adapt` on odd folders of support images: the right result or one sentence; and two jobs on one output."""

import csv
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import launch
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import png
from tests.models.tiny_models import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model") / "export", tiny_checkpoint("clip"))


@pytest.fixture
def folder(tmp_path):
    """Three support images each of cat and dog, and four images to classify."""
    for number in range(6):
        path = tmp_path / "support" / ("cat", "dog")[number // 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (tmp_path / "query").mkdir()
    for number in range(4):
        (tmp_path / "query" / f"{number}.png").write_bytes(png(100 + number))
    return tmp_path


def arguments(folder, export, *, query="query", support="support"):
    given = [f"--support={folder / support}", f"--query={folder / query}", f"--out={folder / 'out'}", "--method=knn"]
    return ["adapt", f"--checkpoint={export}", "--template=none", *given]


def empty_class(support):
    (support / "owl").mkdir()


def one_image(support):
    for number in (1, 2):
        (support / "cat" / f"{number}.png").unlink()


def no_images(support):
    (support / "cat" / "text.jpg").write_text("hello")
    (support / "dog" / "empty.png").write_bytes(b"")
    (support / "dog" / "notes.txt").write_text("x")


def class_of_no_images(support):
    (support / "owl").mkdir()
    (support / "owl" / "empty.png").write_bytes(b"")


def same_in_two_classes(support):
    shutil.copy(support / "cat" / "0.png", support / "dog" / "copy.png")


def same_twice(support):
    shutil.copy(support / "cat" / "0.png", support / "cat" / "copy.png")


def link_to_class(support):
    os.symlink("cat", support / "lion")


def link_loops(support):
    os.symlink("..", support / "cat" / "up")
    os.symlink(".", support / "cat" / "here")
    os.symlink("self.png", support / "cat" / "self.png")
    os.symlink("nowhere.png", support / "cat" / "dead.png")


def not_utf8(support):
    os.rename(support / "cat", os.fsencode(support) + b"/c\xe9t")
    os.rename(support / "dog" / "3.png", os.fsencode(support) + b"/dog/\xff.png")


def pipe_and_folder(support):
    os.mkfifo(support / "cat" / "pipe.png")
    (support / "cat" / "folder.png").mkdir()


def class_named(name):
    def change(support):
        shutil.copytree(support / "cat", support / name)
        for number, path in enumerate((support / name).iterdir()):
            path.write_bytes(png(50 + number))

    return change


# The change, the classes and the number of support images that are used, files left out, and what the log says.
CASES = {
    "unchanged": (lambda support: None, ["cat", "dog"], 6, [], ""),
    "an empty class": (empty_class, ["cat", "dog"], 6, [], "class folder owl has no readable image and is left out"),
    "one image": (one_image, ["cat", "dog"], 4, [], ""),
    "files that are no images": (no_images, ["cat", "dog"], 6, ["empty.png", "notes.txt", "text.jpg"], "3 files left"),
    "a class without readable images": (
        class_of_no_images,
        ["cat", "dog"],
        6,
        ["empty.png"],
        "class folder owl has no",
    ),
    "a class named train": (class_named("train"), ["cat", "dog", "train"], 9, [], "train is taken for a class"),
    "one image in two classes": (
        same_in_two_classes,
        ["cat", "dog"],
        7,
        [],
        "2 support images have an identical image in another class: remove the wrong ones; the first is cat/0.png, "
        "identical to dog/copy.png",
    ),
    "one image twice": (same_twice, ["cat", "dog"], 7, [], "2 support images have an identical image in their class"),
    "a link to a class": (link_to_class, ["cat", "dog", "lion"], 9, [], "6 support images have an identical image in"),
    "loops of links": (link_loops, ["cat", "dog"], 6, ["dead.png", "self.png"], ""),
    "names that are not UTF-8": (not_utf8, [r"c\xe9t", "dog"], 6, [], ""),
    "a pipe and a folder": (pipe_and_folder, ["cat", "dog"], 6, ["pipe.png"], ""),
}


@pytest.mark.parametrize("case", CASES)
def test_an_odd_support_folder_gives_the_right_classes_and_images(folder, export, capsys, case):
    change, classes, count, left_out, message = CASES[case]
    change(folder / "support")
    for _ in range(2):  # the second time from the cache
        assert launch.main(arguments(folder, export)) == 0
        output = capsys.readouterr()
        log = output.out + output.err
        assert message in log and f"{count} support images of {len(classes)} classes" in log
        assert "identical" in message or "identical" not in log
    assert json.loads((folder / "out" / "classifier" / "classes.json").read_text())["classes"] == classes
    with open(folder / "out" / "left_out.csv", newline="") as file:
        assert sorted(pathlib.Path(row["path"]).name for row in csv.DictReader(file)) == left_out
    with open(folder / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and {row["class"] for row in rows} <= set(classes)


@pytest.mark.parametrize("name", ["test", "val", "Validation"])
def test_a_class_named_like_a_query_split_stops_with_one_sentence(folder, export, capsys, name):
    class_named(name)(folder / "support")
    assert launch.main(arguments(folder, export)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"folders that are named like splits ({name}) next to others (cat, dog)" in error


def test_a_support_folder_that_is_the_query_folder_is_classified_and_reported(folder, export, capsys):
    assert launch.main(arguments(folder, export, query="support")) == 0
    assert "6 of 6 images to classify are identical to a support image" in capsys.readouterr().out
    with open(folder / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["nearest"] for row in rows] == [row["path"] for row in rows]


def test_a_second_job_on_the_same_output_is_refused_and_leaves_it_alone(folder, export):
    """The first job is this process, which holds the lock as `adapt` does; then it is free again."""
    out = folder / "out"
    out.mkdir()
    command = [sys.executable, "launch.py", *arguments(folder, export)]
    with open(out / ".adapt.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 7 on host since today\n")
        lock.flush()
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 1 and second.stderr == (
        f"error: {out} is in use by another adapt job (process 7 on host since today). Stop that adapt job, or use "
        "another --out.\n"
    )
    assert [path.name for path in out.iterdir()] == [".adapt.lock"]
    assert launch.main(arguments(folder, export)) == 0

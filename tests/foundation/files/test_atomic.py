"""A reader sees the old file or the new one, whatever happens to the writer."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from foundation.files.atomic import atomic_file, atomic_files, atomic_folder, write_json, write_text


def test_a_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old\n")
    write_text(path, "line one\r\nline two\n")
    assert path.read_bytes() == b"line one\r\nline two\n"
    assert list(path.parent.iterdir()) == [path]


def test_json_is_indented_utf8(tmp_path):
    write_json(tmp_path / "a.json", {"name": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "é"\n}\n'


def test_a_raise_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_raise_leaves_all_files_of_a_set(tmp_path):
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_files(*paths) as temporary:
        temporary[0].write_text("new")
        raise RuntimeError
    assert [path.read_text() for path in paths] == ["old", "old"] and sorted(tmp_path.iterdir()) == paths


def test_a_set_of_files_is_replaced_in_order(tmp_path, monkeypatch):
    replaced = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (replaced.append(target), replace(source, target)))
    paths = [tmp_path / "data.bin", tmp_path / "index.json"]
    with atomic_files(*paths) as temporary:
        for file in temporary:
            file.write_text(file.name)
    assert replaced == paths and [path.read_text() for path in paths] == ["data.bin", "index.json"]


KILLED = """
import os, signal, sys
from foundation.files.atomic import atomic_file
with atomic_file(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL and path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_the_file_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        events.append(("fsync", pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def record_replace(source, target):
        events.append(("replace", pathlib.Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_text(tmp_path / "a.txt", "x")
    assert events == [("fsync", "a.txt"), ("replace", "a.txt"), ("fsync", tmp_path.name)]


def test_a_file_that_cannot_be_synced_does_not_replace_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_a_folder_replaces_the_old_one_and_leftovers_are_removed(tmp_path):
    path = tmp_path / "export"
    for text in ("old", "new"):
        with atomic_folder(path) as temporary:
            (temporary / "nested").mkdir()
            (temporary / "nested" / f"{text}.txt").write_text(text)
    assert [file.relative_to(path).as_posix() for file in path.rglob("*.txt")] == ["nested/new.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_raise_leaves_the_old_folder(tmp_path):
    path = tmp_path / "export"
    with atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("half")
        raise RuntimeError
    assert (path / "a.txt").read_text() == "old" and list(tmp_path.iterdir()) == [path]


KILLED_FOLDER = """
import os, signal, sys
from foundation.files.atomic import atomic_folder
with atomic_folder(sys.argv[1]) as temporary:
    (temporary / "a.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_the_old_folder_and_the_next_write_removes_what_is_left_of_the_new_one(tmp_path):
    path = tmp_path / "export"
    with atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("old")
    subprocess.run([sys.executable, "-c", KILLED_FOLDER, str(path)], timeout=60, check=False)
    assert (path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    with atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("new")
    assert (path / "a.txt").read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_kill_between_the_two_renames_of_a_folder_loses_nothing(tmp_path):
    leftover = tmp_path / ".export.partial-1"
    for name in ("old", "new"):
        (leftover / name).mkdir(parents=True)
        (leftover / name / "weights").write_text(name)
    with pytest.raises(OSError, match="disk full"), atomic_folder(tmp_path / "export"):
        raise OSError("disk full")
    assert (tmp_path / "export" / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "export"]


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path):
    with atomic_folder(tmp_path / "export") as temporary:
        (temporary / "a").write_text("first")
        with pytest.raises(BlockingIOError, match=r"another process is writing .*export\. Wait"):  # noqa: SIM117
            with atomic_folder(tmp_path / "export"):
                pass
    assert [path.name for path in tmp_path.rglob("*")] == ["export", "a"]
    with atomic_folder(tmp_path / "export") as temporary:
        (temporary / "b").write_text("second")
    assert [path.name for path in tmp_path.rglob("*")] == ["export", "b"]

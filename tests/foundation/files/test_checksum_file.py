"""`SHA256SUMS` tells which files of a folder have changed."""

import shutil
import subprocess

import pytest

from foundation.files.checksum_file import SUMS_FILE, changed_files, read_checksums, write_checksums


@pytest.fixture
def folder(tmp_path):
    for name in ("a.bin", "b c.json"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    write_checksums(tmp_path, ["b c.json", "a.bin"])
    return tmp_path


def test_only_changed_files_are_found(folder):
    assert list(read_checksums(folder)) == ["a.bin", "b c.json"] and changed_files(folder) == []
    (folder / "a.bin").write_bytes(b"other")
    assert changed_files(folder) == ["a.bin"] and changed_files(folder, ["b c.json", "not listed"]) == []
    (folder / "a.bin").unlink()
    assert changed_files(folder) == []


def test_line_ends_of_windows_are_read(folder):
    (folder / SUMS_FILE).write_bytes((folder / SUMS_FILE).read_bytes().replace(b"\n", b"\r\n"))
    (folder / "a.bin").write_bytes(b"other")
    assert changed_files(folder) == ["a.bin"]


def test_lists_of_other_programs_are_read(folder):
    lines = (folder / SUMS_FILE).read_text().splitlines()
    other = [f"{lines[0][:64].upper()} *./a.bin", lines[1], f"{'0' * 64}  onnx/a.bin", f"{'0' * 64}  ./x/b c.json"]
    (folder / SUMS_FILE).write_text("\n".join(other) + "\n")
    assert list(read_checksums(folder)) == ["a.bin", "b c.json"] and changed_files(folder) == []


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_sha256sum_reads_the_file(folder):
    assert subprocess.run(["sha256sum", "--check", "--status", SUMS_FILE], cwd=folder).returncode == 0


@pytest.mark.parametrize("content", [b"\0" * 50, b"\xff", b"0123  a.bin\n", b"", b"-" * 64 + b"  a.bin"])
def test_a_damaged_list_is_an_error_and_an_absent_one_is_none(folder, content):
    (folder / SUMS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"SHA256SUMS is damaged\. .* remove it to skip the check"):
        changed_files(folder)
    (folder / SUMS_FILE).unlink()
    assert changed_files(folder) == []

"""A folder is used by one process at a time."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from foundation.files.folder_lock import lock_folder
from tests.logged import logged


def lock(folder):
    return lock_folder(folder, "run.lock", job="run", option="--workdir")


def test_a_workdir_is_locked_by_one_process_until_it_ends(tmp_path):
    program = (
        "import sys; from foundation.files.folder_lock import lock_folder\n"
        "with lock_folder(sys.argv[1], 'run.lock', job='run', option='--workdir'): input()"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    with lock(tmp_path):
        other = subprocess.run(arguments, capture_output=True, text=True, input="\n")
        assert f"is in use by another run (process {os.getpid()} on " in other.stderr
    holder = subprocess.Popen(arguments, stdin=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp_path / "run.lock").read_text().startswith(f"process {holder.pid} "):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    message = rf"process {holder.pid} on .* Stop that run, or use another --workdir"
    with pytest.raises(ValueError, match=message), lock(tmp_path):
        pass
    holder.kill()  # the lock is released with its process
    holder.wait()
    with lock(tmp_path):
        pass


def test_a_process_can_wait_for_the_lock(tmp_path):
    order = []

    def wait():
        with lock_folder(tmp_path, "run.lock", job="run", option="--workdir", wait=True):
            order.append("second")

    with logged() as messages:
        with lock(tmp_path):
            thread = threading.Thread(target=wait)
            thread.start()
            deadline = time.monotonic() + 30
            while not messages and time.monotonic() < deadline:
                time.sleep(0.01)
            order.append("first")
        thread.join()
    assert order == ["first", "second"]
    assert messages[0].startswith(f"waiting for another run in {tmp_path} (process {os.getpid()} on ")


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch, code):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with logged() as messages, lock(tmp_path):
        assert (tmp_path / "run.lock").read_text().startswith(f"process {os.getpid()} ")
    assert messages == [f"warning: {tmp_path} is on a file system without locks. Make sure that no second run uses it."]


def test_other_errors_of_the_file_system_are_raised(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="Input/output error"), lock(tmp_path):
        pass

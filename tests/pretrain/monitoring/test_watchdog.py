"""A stalled run leaves the stacks of its threads, and can be ended."""

import pathlib
import subprocess
import sys
import threading
import time

import pytest

from pretrain.monitoring.watchdog import Watchdog

ROOT = pathlib.Path(__file__).parents[3]


def test_a_stalled_run_leaves_the_stacks_of_all_threads(tmp_path, said):
    watchdog = Watchdog(tmp_path / "stalls" / "host-0.txt", seconds=0.3, end=False)
    with watchdog.paused():
        time.sleep(0.5)
    assert said == []  # the clock has not started
    watchdog.beat()
    with watchdog.paused():
        time.sleep(0.6)
    assert said == []
    waiting = threading.Event()
    threading.Thread(target=stall, args=(waiting,), daemon=True).start()
    time.sleep(0.8)
    waiting.set()
    assert len(said) == 1 and said[0].startswith("warning: no step has ended for ") and "host-0.txt" in said[0]
    stacks = (tmp_path / "stalls" / "host-0.txt").read_text()
    assert stacks.startswith("no step for 0 s, ") and "in stall" in stacks and "in test_a_stalled_run" in stacks
    watchdog.beat()
    watchdog.close()
    assert (tmp_path / "stalls" / "host-0.txt").read_text() == stacks


def stall(waiting: threading.Event) -> None:
    waiting.wait(30)


def test_a_run_that_never_stalls_leaves_no_file(tmp_path, said):
    watchdog = Watchdog(tmp_path / "stalls" / "host-0.txt", seconds=0.4, end=True)
    for _ in range(10):
        watchdog.beat()
        time.sleep(0.1)
    watchdog.close()
    watchdog.beat()  # nothing watches any more
    time.sleep(0.8)
    assert said == [] and not (tmp_path / "stalls").exists()


@pytest.mark.parametrize("wait", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"])  # the second holds the GIL
def test_a_stalled_run_can_be_ended(tmp_path, wait):
    program = (
        "import ctypes, pathlib, sys, time; from pretrain.monitoring.watchdog import Watchdog\n"
        f"w = Watchdog(pathlib.Path(sys.argv[1]), seconds=0.2, end=True); w.beat(); {wait}"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "s.txt")]
    ended = subprocess.run(command, timeout=50, capture_output=True, cwd=ROOT)
    assert ended.returncode == 1 and "time.sleep" not in ended.stderr.decode()
    assert 'File "<string>", line 2 in <module>' in (tmp_path / "s.txt").read_text()

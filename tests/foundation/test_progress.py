"""Progress on a pipe and on a terminal."""

import contextlib
import fcntl
import io
import logging
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from foundation import log
from foundation.progress import ProgressBar, ProgressBars, format_duration, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("foundation.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_piped_output_gets_a_line_every_ten_seconds_and_one_at_the_end(clock):
    stream = io.StringIO()
    progress = ProgressBars(stream=stream)
    for done in range(10, 101, 10):  # the first 10 images were cached and do not count for the rate
        progress.show("images", done, 100)
        clock[0] += 2.0
    assert stream.getvalue().splitlines() == [
        "images 20/100  5.00/s  00:16 left",
        "images 70/100  5.00/s  00:06 left",
        "images 100/100  5.00/s  00:00 left",
    ]


def test_piped_output_has_no_carriage_returns_or_escapes(clock):
    stream = io.StringIO()
    with ProgressBar(3_000_000, description="indexing shards", unit="B", stream=stream) as bar:
        for _ in range(3):
            clock[0] += 11.0
            bar.update(1_000_000)
    assert not set("\r\x1b") & set(stream.getvalue())
    assert stream.getvalue().splitlines()[1] == "indexing shards 2.00M/3.00M  90.9kB/s  00:11 left"


def test_each_name_has_its_own_bar_on_a_terminal(clock):
    stream = Terminal()
    progress = ProgressBars(stream=stream)
    for done in (0, 5):
        progress.show("images", done, 5)
        progress.show("texts", done, 9)
        clock[0] += 1.0
    shown = stream.getvalue()
    assert "\r" in shown
    assert "images 5/5 |" in shown and "| 00:00 left  5.00/s" in shown
    assert "texts 5/9 |" in shown and "| 00:00 left  5.00/s" in shown


def test_work_that_was_cached_completely_is_not_shown():
    for stream in (io.StringIO(), Terminal()):
        progress = ProgressBars(stream=stream)
        progress.show("images", 5, 5)
        progress.show("images", 5, 5)
        assert stream.getvalue() == ""


def test_a_text_replaces_the_rate_and_a_restart_leaves_out_the_time_before(clock):
    for stream in (io.StringIO(), Terminal()):
        bar = ProgressBar(100, description="step", start=10, line_interval=0.0, stream=stream)
        clock[0] += 60.0  # compilation
        bar.restart(11)
        for step in (12, 13):
            clock[0] += 2.0
            bar.show(step, f"loss {step / 4}")
        bar.close()
        shown = stream.getvalue()
        if stream.isatty():
            assert "step 12/100 |" in shown and "| 02:54 left  loss 3.25" in shown and shown.endswith("\n")
        else:
            assert shown.splitlines() == [
                "step 12/100  loss 3.0  02:56 left",
                "step 13/100  loss 3.25  02:54 left",
            ]


def test_a_loop_shorter_than_its_delay_shows_nothing(clock):
    for stream in (io.StringIO(), Terminal()):
        with ProgressBar(2, description="rows", delay=2.0, stream=stream) as bar:
            bar.update()
            clock[0] += 1.0
            bar.update()
        assert stream.getvalue() == ""


def test_track_yields_the_items_and_shows_the_count_when_it_takes_long(clock, capsys):
    seen = []
    for item in track("abc", total=3, description="reading", unit="captions"):
        seen.append(item)
        clock[0] += 4.0
    assert seen == ["a", "b", "c"]
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["reading 1/3  0.25 captions/s  00:08 left", "reading 3/3  0.25 captions/s  00:00 left"]


def test_only_the_first_process_shows_progress(monkeypatch, clock):
    monkeypatch.setattr("foundation.progress.is_first_process", lambda: False)
    for stream in (io.StringIO(), Terminal()):
        with ProgressBar(3, description="rows", stream=stream) as bar:
            clock[0] += 20.0
            bar.update(3)
        assert stream.getvalue() == ""


SCRIPT = """
import logging, time
from foundation import log
from foundation.progress import ProgressBar
log.configure()
with ProgressBar(2, description="rows") as bar:
    bar.update()
    logging.getLogger("data").warning("a record cannot be read")
    bar.update()
"""


def read_all(descriptor):
    parts = []
    with open(descriptor, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # EIO: the other end is closed
        while part := terminal.read(1 << 16):
            parts.append(part)
    return b"".join(parts).decode().replace("\r\n", "\n")


def run_in_terminal(script, *, columns):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    subprocess.run([sys.executable, "-c", script], stdout=follower, check=True, timeout=60)
    os.close(follower)
    return read_all(leader)


def test_a_log_line_stands_above_a_live_bar():
    lines = [line.rpartition("\r")[2] for line in run_in_terminal(SCRIPT, columns=80).split("\n")]
    assert lines[0] == "warning: a record cannot be read"
    assert lines[1].startswith("rows 2/2 |") and lines[2:] == [""]


def test_a_terminal_of_unknown_width_gets_plain_lines():
    lines = run_in_terminal(SCRIPT, columns=0).split("\n")
    assert [line.partition("  ")[0] for line in lines] == [
        "rows 1/2",
        "warning: a record cannot be read",
        "rows 2/2",
        "",
    ]


def test_a_log_line_is_a_plain_line_on_a_pipe(capsys):
    log.configure()
    logging.getLogger("data").warning("a record cannot be read")
    assert capsys.readouterr().out == "warning: a record cannot be read\n"


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7s"), (200, "3m20s"), (3725, "1h02m")])
def test_durations_have_two_units(seconds, text):
    assert format_duration(seconds) == text

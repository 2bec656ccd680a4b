"""The progress lines of collections."""

import io

import pytest

from pretrain.monitoring.metric_writer import CollectionsProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("pretrain.monitoring.metric_writer.time.monotonic", lambda: now[0])
    return now


def test_piped_output_has_a_line_every_ten_seconds_and_one_at_the_end(clock):
    stream = io.StringIO()
    progress = CollectionsProgress(stream=stream)
    for done in range(10, 101, 10):  # 10 rows, found embedded already, are not counted into the rate
        progress.show("images", done, 100)
        clock[0] += 2.0
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["20/100", "70/100", "100/100"]
    assert lines[1].split("  ")[-2:] == ["5.0 a second", "6s left"]
    assert lines[2].endswith("0s left")


def test_collections_are_shown_each_by_itself(clock):
    stream = Terminal()
    progress = CollectionsProgress(stream=stream)
    for done in (0, 5):
        progress.show("images", done, 5)
        progress.show("texts", done, 9)
        clock[0] += 1.0
    assert "images 5/5  5.0 a second  0s left\n" in stream.getvalue()
    assert "texts 5/9  5.0 a second  1s left" in stream.getvalue()

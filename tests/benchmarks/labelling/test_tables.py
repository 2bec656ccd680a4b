"""The benchmarks of labelling run, at a tiny size."""

import pytest

from benchmarks.labelling import browser as label_browser
from benchmarks.labelling import clicks, speed
from tests.benchmarks.labelled_sets import labelled_set
from tests.browser.pages import CHROMIUM


def test_labelling_clicks_prints_both_tables_and_names_missing_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clicks, "open_set", lambda name, data: labelled_set())
    monkeypatch.setattr(clicks, "TIMES", (5, 10))
    figure = tmp_path / "curves.svg"
    assert clicks.main(["--sets=some", "--runs=2", "--clicks=30", f"--figure={figure}"]) == 0
    out = capsys.readouterr().out
    assert (
        "| some | 80 | 4 | 10 | " in out
        and "| random share, left out | 10 | 2 | " in out
        and "<svg" in figure.read_text()
    )
    monkeypatch.undo()
    assert clicks.main(["--sets=gtsrb"]) == 1
    assert "gtsrb is not included. Pass --data=FOLDER" in capsys.readouterr().err


def test_labelling_speed_prints_a_row_per_situation(capsys):
    assert (
        speed.main(["--pictures=2600", "--dim=8", "--classes=3", "--clicks=2", "--session=200", "--labels=20,40"]) == 0
    )
    assert capsys.readouterr().out.count("\n| ") == 4 + 7


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome found; install one, or set CHROME to it")
def test_the_label_page_is_timed_in_a_browser(capsys):
    label_browser.main(["--pictures=200", "--labels=30,100", "--clicks=2"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows[3:]] == ["200", "200", "200, while embedding"]
    assert [row.split("|")[2].strip() for row in rows[3:]] == ["30", "100", "30"]
    assert all(float(cell) > 0 for row in rows[3:] for cell in row.split("|")[2:-1])

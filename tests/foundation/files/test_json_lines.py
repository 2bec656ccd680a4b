"""JSON-lines files survive a writer that was killed; damage elsewhere is reported."""

import os

import pytest

from foundation.files.json_lines import append_json_line, append_json_lines, read_json_lines, write_json_lines
from tests.logged import logged

ROWS = [{"step": 1, "name": "é\u2028\u2029\x85\x0b\x0c\x1c"}, {"step": 2}]


def test_rows_are_written_and_appended(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    append_json_line(path, ROWS[0])
    append_json_lines(path, ROWS[1:])
    assert read_json_lines(path) == ROWS
    write_json_lines(path, ROWS[:1])
    assert read_json_lines(path) == ROWS[:1]


def test_an_absent_file_has_no_rows(tmp_path):
    assert read_json_lines(tmp_path / "a.jsonl") == []


@pytest.mark.parametrize("cut", ['{"step": 3', '{"step": 3}'])
def test_a_cut_last_line_is_ignored_and_removed_by_the_next_append(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    write_json_lines(path, ROWS)
    with open(path, "a", encoding="utf-8") as file:
        file.write(cut)
    with logged() as messages:
        assert read_json_lines(path) == ROWS
    assert messages == [f"warning: the last line of {path} is cut and left out"]
    with pytest.raises(ValueError, match=r"line 3 of .*a\.jsonl is damaged"):
        read_json_lines(path, appended=False)
    append_json_line(path, {"step": 4})
    assert read_json_lines(path, appended=False) == [*ROWS, {"step": 4}]


def test_a_cut_line_longer_than_a_block_is_removed(tmp_path):
    path = tmp_path / "a.jsonl"
    write_json_lines(path, ROWS)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"text": "' + "x" * 200_000)
    append_json_line(path, {"step": 4})
    assert read_json_lines(path) == [*ROWS, {"step": 4}]


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2 of .*a\.jsonl is damaged"):
        read_json_lines(path)


def test_appended_rows_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    append_json_line(tmp_path / "a.jsonl", {"step": 1})
    assert len(synced) == 1

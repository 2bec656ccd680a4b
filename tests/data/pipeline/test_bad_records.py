"""The tracker of bad records."""

import json

import numpy as np
import pytest

from data.pipeline.bad_records import BadRecordTracker
from data.sources.base import REASONS, BadRecord
from foundation.files.json_lines import read_json_lines


def failures(*rows):
    """Return rows of reason codes, padded to three attempts."""
    codes = [[BadRecord(reason, "k", "d").code for reason in row] + [0] * (3 - len(row)) for row in rows]
    return np.array(codes, np.uint8)


def key(row, attempt):
    return f"s.tar/{row}-{attempt}"


def test_records_are_counted_by_reason_and_written_once(tmp_path, said):
    bad = BadRecordTracker(max_share=1.0, window=100, path=tmp_path / "bad.jsonl")
    for _ in range(2):
        bad.count(failures([], ["no image"], ["corrupt image", "no image"]), key, step=3)
    assert bad.counts == {"no image": 4, "corrupt image": 2}
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert lines[1] == {"key": "s.tar/2-0", "reason": "corrupt image", "step": 3} and len(lines) == len(said) == 3
    assert said[0] == "replaced s.tar/1-0: no image"
    again = BadRecordTracker(max_share=1.0, window=100, path=tmp_path / "bad.jsonl")
    again.count(failures([], ["no image"]), key, step=9)
    assert len(said) == 3 and again.counts == {"no image": 1}  # a resumed run does not report it again


def test_only_the_first_ten_are_logged(tmp_path, said):
    bad = BadRecordTracker(max_share=1.0, window=10, path=tmp_path / "bad.jsonl")
    bad.count(failures(*[["no image"]] * 30), key, step=0)
    assert len(said) == 10 and said[-1].endswith(f"; further ones are listed only in {tmp_path / 'bad.jsonl'}")
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 30


def test_too_many_bad_records_raise_an_error_with_the_reasons():
    bad = BadRecordTracker(max_share=0.05, window=100)
    for _ in range(20):  # one of twenty records, counting the replacement: exactly the limit
        bad.count(failures(["no image"], *[[]] * 18), key, step=0)
    with pytest.raises(
        ValueError, match=r"6 of the last 100 records cannot be used \(4 no image, 2 corrupt image\)"
    ) as e:
        bad.count(failures([], [], ["corrupt image", "corrupt image"]), key, step=0)
    assert "data.max_bad_share allows 5.0% of 100. Repair the data" in str(e.value)


def test_a_new_run_stops_as_soon_as_a_full_window_would_exceed_the_limit():
    bad = BadRecordTracker(max_share=0.05, window=1000)
    bad.count(failures(*[["no image"]] * 50), key, step=0)
    with pytest.raises(ValueError, match="51 of the last 102 records"):
        bad.count(failures(["no image"]), key, step=1)


def test_a_limit_of_zero_stops_at_the_first_bad_record():
    with pytest.raises(ValueError, match="1 of the last 2 records"):
        BadRecordTracker(max_share=0.0, window=10).count(failures(["no image"]), key, step=0)


def test_reason_codes_count_from_one():
    assert [BadRecord(reason, "k", "d").code for reason in REASONS] == list(range(1, len(REASONS) + 1))


def test_a_cut_last_line_is_ignored(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"key": "a\u2028b", "reason": "no image", "step": 0}\n{"key": "s.tar/0-0", "rea', encoding="utf-8")
    bad = BadRecordTracker(max_share=1.0, window=10, path=path)
    bad.count(failures(["no image"]), key, step=1)
    assert [line["key"] for line in read_json_lines(path)] == ["a\u2028b", "s.tar/0-0"]

"""`metrics.jsonl` is resumed, rolled back, and read in the form of earlier versions."""

import json

import pytest

from pretrain.monitoring.metric_writer import MetricsWriter, read_metrics
from tests.logged import logged


def steps_in(workdir):
    return [line["step"] for line in read_metrics(workdir / "metrics.jsonl")]


def test_a_resumed_run_drops_later_steps_and_a_cut_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    writer = MetricsWriter(tmp_path, start_step=2)
    writer.write(3, {"loss": 0.5})
    assert steps_in(tmp_path) == [1, 2, 3]
    writer.rollback(1)
    writer.write(2, {"loss": 0.25})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2, "loss": 0.25}]


def test_a_metric_that_was_renamed_has_its_new_name(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "model_flops_share": 0.4}) + "\n")
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "mfu": 0.4}]


def test_a_damaged_line_is_an_error_that_names_it(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl is damaged"):
        read_metrics(tmp_path / "metrics.jsonl")


WHOLE = "".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(2, 14, 2)).encode()
DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "half zeroed": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "first half zeroed": lambda content: bytes(len(content) // 2) + content[len(content) // 2 :],
    "middle": lambda content: content[:50] + b"\xff" * 20 + content[70:],
    "removed": lambda content: None,
    "cut between lines": lambda content: b"".join(content.splitlines(keepends=True)[:2]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_lost_metrics_are_reported_and_the_readable_ones_are_kept(tmp_path, name):
    path, content = tmp_path / "metrics.jsonl", DAMAGE[name](WHOLE)
    if content is not None:
        path.write_bytes(content)
    with logged() as messages:
        MetricsWriter(tmp_path, start_step=12, log_every=2).close()
    assert messages and all("left out" in message or "lines are lost" in message for message in messages)
    kept = [line for line in WHOLE.split(b"\n") if line and line in (content or b"").split(b"\n")[:-1]]
    assert path.read_bytes().split(b"\n")[:-1] == kept
    copy = tmp_path / "metrics.damaged.jsonl"
    assert copy.is_file() == (name not in ("removed", "cut between lines"))
    assert not copy.is_file() or copy.read_bytes() == content


@pytest.mark.parametrize("start", [10, 11, 12, 13, 0])
def test_a_whole_file_is_resumed_without_a_word(tmp_path, start):
    (tmp_path / "metrics.jsonl").write_bytes(WHOLE)
    with logged() as messages:
        MetricsWriter(tmp_path, start_step=start, log_every=2).close()
    assert not messages and steps_in(tmp_path) == [step for step in range(2, 14, 2) if step <= start]

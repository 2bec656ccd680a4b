"""`metrics.jsonl` is resumed, rolled back, and read in the form of earlier versions."""

import json

import pytest

from pretrain.monitoring.metric_writer import MetricsWriter, read_metrics


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
    with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl is not JSON"):
        read_metrics(tmp_path / "metrics.jsonl")

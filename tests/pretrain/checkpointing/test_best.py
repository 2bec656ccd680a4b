"""The best checkpoint by a metric."""

import pytest

from pretrain.monitoring.metric_writer import read_metrics
from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.tiny import config, final_checkpoints


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_reported(tmp_path, capsys):
    shard = str(write_shard(tmp_path / "s.tar", labelled(21)))
    settings = config(shard, keep_checkpoints=1, keep_best="learning_rate")
    pretrain(settings, tmp_path / "run", data_dir=tmp_path)
    best = max(read_metrics(tmp_path / "run" / "metrics.jsonl"), key=lambda line: line["learning_rate"])["step"]
    assert best < 8 and set(final_checkpoints(tmp_path / "run")) >= {f"step_{best}", "step_9"}
    assert f"best learning_rate: 0.009505 at step {best}; export it with --step={best}" in capsys.readouterr().out

"""A run that receives SIGTERM saves its state and resumes to the same bits."""

import os
import signal

import pytest

from data.pipeline.loader import BatchLoader
from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.tiny import config, final_checkpoints, metrics_without_times, same_parameters


def preempt_at(monkeypatch, steps):
    """Send SIGTERM to this process while it loads the batch of each of `steps`, once."""
    rows, left = BatchLoader.rows, set(steps)

    def rows_with_signal(self, step, some):
        if step in left:
            left.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return rows(self, step, some)

    monkeypatch.setattr(BatchLoader, "rows", rows_with_signal)


@pytest.mark.slow
def test_a_preempted_run_saves_within_a_step_and_resumes_to_the_same_bits(tmp_path, monkeypatch, capsys):
    shard = str(write_shard(tmp_path / "s.tar", labelled(21)))
    finished, workdir = tmp_path / "finished", tmp_path / "run"
    pretrain(config(shard), finished, data_dir=tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    preempt_at(monkeypatch, (0, 5))
    steps = []
    while not steps or steps[-1] < 9:
        result = pretrain(config(shard, checkpoint_every=100), workdir, data_dir=tmp_path)
        assert result.start_step == (steps[-1] if steps else 0)
        assert result.preempted == (result.step < 9)
        if result.preempted:
            expected = f"received SIGTERM at step {result.step} of 9; run the same command to resume there"
            assert expected in capsys.readouterr().out
            assert f"step_{result.step}" in final_checkpoints(workdir) or result.step == 0
        steps.append(result.step)
        assert len(steps) < 5
    assert len(steps) == 3 and steps[1] <= 5  # batches are loaded ahead of their step
    assert signal.getsignal(signal.SIGTERM) == handler
    assert same_parameters(finished, workdir) and metrics_without_times(finished) == metrics_without_times(workdir)

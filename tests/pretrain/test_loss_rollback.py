"""A bad loss stops a run, or makes it roll back to a checkpoint and skip the batches since then."""

import json

import numpy as np
import pytest

from data.pipeline.loader import BatchLoader
from data.pipeline.sampler import BatchSampler
from foundation.deprecation import warn_renamed
from foundation.settings import build
from pretrain.loss_rollback import (
    BadLossError,
    RecoverySettings,
    check_loss,
    read_rollbacks,
    read_skipped,
    record_rollback,
)
from pretrain.monitoring.metric_writer import read_metrics
from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.tiny import config, final_checkpoints, same_parameters

ROLLBACK = {"on_bad_loss": "rollback"}


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    return str(write_shard(tmp_path_factory.mktemp("data") / "s.tar", labelled(21)))


def poison(monkeypatch, positions):
    """Make the loss of the batches at these positions of the data infinite, at whatever step they are used."""
    batches, check, current = BatchLoader.batches, check_loss, {}

    def remember_sampler(self, *args, **named):
        current["sampler"] = self.sampler
        return batches(self, *args, **named)

    def check_poisoned(values, step, settings):
        if current["sampler"].position(step - 1) in positions:
            values = {**values, "loss": float("inf")}
        check(values, step, settings)

    monkeypatch.setattr(BatchLoader, "batches", remember_sampler)
    monkeypatch.setattr("pretrain.loop.check_loss", check_poisoned)


@pytest.mark.slow
def test_a_bad_loss_stops_the_run_at_its_step(shard, tmp_path, monkeypatch):
    poison(monkeypatch, {4})
    with pytest.raises(BadLossError, match=r"loss is inf at step 5\. Lower optimizer\.learning_rate, or set recovery"):
        pretrain(config(shard), tmp_path, data_dir=tmp_path)
    assert set(final_checkpoints(tmp_path)) == {"step_2", "step_4"}


@pytest.mark.slow
def test_a_rollback_skips_the_batches_since_the_checkpoint(shard, tmp_path, monkeypatch, capsys):
    settings = config(shard, recovery=ROLLBACK, steps=8, checkpoint_every=2)
    poison(monkeypatch, {4, 9})
    assert pretrain(settings, tmp_path / "run", data_dir=tmp_path).step == 8
    expected = "warning: loss is inf at step 5; rolled back to step 4, skipping the 1 batch after it"
    assert expected in capsys.readouterr().out
    # Step 5 now uses batch 5, and so on. Batch 9, which is bad too, would be used at step 9, after the end of this run.
    assert read_skipped(tmp_path / "run") == ((4, 1),)
    [line] = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert line["reason"] == "loss is inf at step 5"
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [2, 4, 6, 8]

    monkeypatch.undo()  # skipped batches stay skipped on resuming: the same parameters without the bad loss
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "skipped.jsonl").write_text((tmp_path / "run" / "skipped.jsonl").read_text())
    pretrain(settings, tmp_path / "again", data_dir=tmp_path)
    assert same_parameters(tmp_path / "run", tmp_path / "again")
    plain = config(shard, steps=8)
    pretrain(plain, tmp_path / "plain", data_dir=tmp_path)
    assert not same_parameters(tmp_path / "run", tmp_path / "plain")


@pytest.mark.slow
def test_each_checkpoint_is_rolled_back_to_once_and_rollbacks_are_limited(shard, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, set(range(5, 100)))
    recovery = ROLLBACK | {"max_rollbacks": 2}
    with pytest.raises(FloatingPointError, match=r"loss is inf at step \d, after 2 rollbacks"):
        pretrain(config(shard, recovery=recovery, keep_checkpoints=5), tmp_path, data_dir=tmp_path)
    output = capsys.readouterr().out
    assert "rolled back to step 4, skipping the 2 batches after it" in output
    assert "rolled back to step 2, skipping the 3 batches after it" in output
    assert read_skipped(tmp_path) == ((2, 5),)  # the batches that the first rollback skipped are skipped by the second
    assert read_rollbacks(tmp_path) == [4, 2]


def test_a_rollback_past_an_earlier_one_skips_each_bad_batch_and_no_later_one(tmp_path):
    def sampler():
        return BatchSampler(lengths=(500,), batch_size=4, seed=0, skipped=read_skipped(tmp_path))

    for bad, target in ((33, 30), (37, 20), (52, 50), (45, 40)):  # steps of bad losses and of the checkpoints
        position = sampler().position(bad - 1)
        earlier = [sampler().position(step) for step in range(target)]
        record_rollback(tmp_path, BadLossError(bad, "bad"), step=target)
        assert [sampler().position(step) for step in range(target)] == earlier
        later = list(range(position + 1, position + 101 - target))
        assert [sampler().position(step) for step in range(target, 100)] == later


@pytest.mark.slow
def test_a_rollback_before_the_first_checkpoint_starts_again(shard, tmp_path, monkeypatch):
    poison(monkeypatch, {0})
    assert pretrain(config(shard, recovery=ROLLBACK, steps=3), tmp_path, data_dir=tmp_path).step == 3
    assert read_skipped(tmp_path) == ((0, 1),)


def test_losses_that_are_not_finite_or_too_high_are_bad():
    fine = {"loss": 3.0, "gradient_norm": 1e9}
    check_loss(fine, 1, RecoverySettings())
    check_loss(fine, 1, RecoverySettings(max_loss=3.0))
    with pytest.raises(BadLossError, match=r"loss is 3, above recovery\.max_loss 2\.5, at step 7"):
        check_loss(fine, 7, RecoverySettings(max_loss=2.5))
    with pytest.raises(BadLossError, match="gradient_norm is nan at step 7"):
        check_loss(fine | {"gradient_norm": float("nan")}, 7, RecoverySettings())


def test_skipped_batches_shift_all_later_batches_and_no_earlier_one():
    plain = BatchSampler(lengths=(50,), batch_size=4, seed=0)
    skipping = BatchSampler(lengths=(50,), batch_size=4, seed=0, skipped=((3, 2), (6, 1)))
    for step, position in ((0, 0), (2, 2), (3, 5), (5, 7), (6, 9), (9, 12)):
        assert skipping.position(step) == position
        np.testing.assert_array_equal(skipping.sample_ids(step), plain.sample_ids(position))


def test_the_old_names_of_settings_are_accepted_with_a_warning(said):
    warn_renamed.cache_clear()
    settings = build(RecoverySettings, "recovery", {"on_bad_loss": "go_back", "max_go_backs": 2})
    assert settings == RecoverySettings(on_bad_loss="rollback", max_rollbacks=2)
    assert len(said) == 2 and all(line.startswith("warning: recovery.") and "renamed" in line for line in said)

"""What happens to a run while it goes: it is told to end, goes bad, stands still, is watched, or is not alone."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data.pipeline.loader import BatchLoader
from data.pipeline.sampler import BatchSampler
from pretrain.loss_rollback import BadLossError, RecoverySettings, check_loss, read_skipped, read_went_back_to, skip
from pretrain.monitoring.metric_writer import read_metrics
from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.test_train import final_checkpoints, same_parameters, without_times
from tests.pretrain.tiny import config

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    return str(write_shard(tmp_path_factory.mktemp("data") / "s.tar", labelled(21)))


@pytest.fixture(scope="module")
def finished(shard, tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("run")
    pretrain(config(shard), workdir, data_dir=workdir)
    return workdir


def tell_to_end_at(monkeypatch, places):
    """Sends this process SIGTERM while it makes the batch of each of `places`."""
    rows = BatchLoader.rows
    left = set(places)

    def telling(self, step, some):
        if step in left:
            left.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return rows(self, step, some)

    monkeypatch.setattr(BatchLoader, "rows", telling)


def test_a_run_that_is_told_to_end_saves_within_a_step_and_goes_on_to_the_same_bits(
    shard, finished, tmp_path, monkeypatch, capsys
):
    before = signal.getsignal(signal.SIGTERM)
    tell_to_end_at(monkeypatch, (0, 5))
    steps = []
    while not steps or steps[-1] < 9:
        result = pretrain(config(shard, checkpoint_every=100), tmp_path, data_dir=tmp_path)
        assert result.start_step == (steps[-1] if steps else 0)
        assert result.preempted == (result.step < 9)
        if result.preempted:
            told = f"received SIGTERM at step {result.step} of 9; run the same command to resume there"
            assert told in capsys.readouterr().out
            assert f"step_{result.step}" in final_checkpoints(tmp_path) or result.step == 0
        steps.append(result.step)
        assert len(steps) < 5
    assert len(steps) == 3 and steps[1] <= 5  # batches are made ahead of their step
    assert signal.getsignal(signal.SIGTERM) == before
    assert same_parameters(finished, tmp_path) and without_times(finished) == without_times(tmp_path)


def poison(monkeypatch, places):
    """Makes the loss of the batches at these places of the data infinite, which skipping leaves out for good."""
    check, place_of = check_loss, {}

    def bad(values, step, settings):
        if place_of["sampler"].position(step - 1) in places:
            values = {**values, "loss": float("inf")}
        check(values, step, settings)

    batches = BatchLoader.batches

    def noting(self, *args, **named):
        place_of["sampler"] = self.sampler
        return batches(self, *args, **named)

    monkeypatch.setattr(BatchLoader, "batches", noting)
    monkeypatch.setattr("pretrain.train.check_loss", bad)


def test_a_bad_loss_ends_the_run_at_its_step(shard, tmp_path, monkeypatch):
    poison(monkeypatch, {4})
    with pytest.raises(BadLossError, match=r"loss is inf at step 5; lower optimizer\.learning_rate, or set recovery"):
        pretrain(config(shard), tmp_path, data_dir=tmp_path)
    assert set(final_checkpoints(tmp_path)) == {"step_2", "step_4"}


def test_a_run_goes_back_and_leaves_out_the_batches_of_a_bad_loss(shard, finished, tmp_path, monkeypatch, capsys):
    going_back = config(shard, recovery={"on_bad_loss": "go_back"}, steps=8, checkpoint_every=2)
    poison(monkeypatch, {4, 9})
    assert pretrain(going_back, tmp_path / "run", data_dir=tmp_path).step == 8
    said = capsys.readouterr().out
    assert "warning: loss is inf at step 5; going back to step 4 and on without the 1 batches since" in said
    # Step 5 makes batch 5 now, and so on; batch 9 is bad too, at step 9, which this run does not have.
    assert read_skipped(tmp_path / "run") == ((4, 1),)
    [line] = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert line["reason"] == "loss is inf at step 5"
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [2, 4, 6, 8]

    monkeypatch.undo()  # the batches stay skipped where the run is continued: the same without the bad loss
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "skipped.jsonl").write_text((tmp_path / "run" / "skipped.jsonl").read_text())
    pretrain(going_back, tmp_path / "again", data_dir=tmp_path)
    assert same_parameters(tmp_path / "run", tmp_path / "again")
    plain = config(shard, steps=8)
    pretrain(plain, tmp_path / "plain", data_dir=tmp_path)
    assert not same_parameters(tmp_path / "run", tmp_path / "plain")


def test_each_checkpoint_is_gone_back_to_once_and_the_patience_ends(shard, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, set(range(5, 100)))
    recovery = {"on_bad_loss": "go_back", "max_go_backs": 2}
    with pytest.raises(FloatingPointError, match=r"loss is inf at step \d, after going back 2 times"):
        pretrain(config(shard, recovery=recovery, keep_checkpoints=5), tmp_path, data_dir=tmp_path)
    said = capsys.readouterr().out
    assert "going back to step 4 and on without the 2 batches since" in said
    assert "going back to step 2 and on without the 3 batches since" in said
    assert read_skipped(tmp_path) == ((2, 5),)  # the batches that the first left out are among those of the second
    assert read_went_back_to(tmp_path) == [4, 2]


def test_going_back_beyond_an_earlier_skip_leaves_out_each_bad_batch_and_no_later_one(tmp_path):
    def sampler():
        return BatchSampler(lengths=(500,), batch_size=4, seed=0, skipped=read_skipped(tmp_path))

    for bad, target in ((33, 30), (37, 20), (52, 50), (45, 40)):  # the steps of bad losses, and of the checkpoints
        place = sampler().position(bad - 1)
        earlier = [sampler().position(step) for step in range(target)]
        skip(tmp_path, after_step=target, batches=bad - target, reason="bad")
        assert [sampler().position(step) for step in range(target)] == earlier
        assert [sampler().position(step) for step in range(target, 100)] == list(range(place + 1, place + 101 - target))


def test_before_the_first_checkpoint_a_run_goes_back_to_its_start(shard, tmp_path, monkeypatch):
    poison(monkeypatch, {0})
    recovery = {"on_bad_loss": "go_back"}
    assert pretrain(config(shard, recovery=recovery, steps=3), tmp_path, data_dir=tmp_path).step == 3
    assert read_skipped(tmp_path) == ((0, 1),)


def test_losses_that_are_not_finite_or_too_high_are_bad():
    fine = {"loss": 3.0, "gradient_norm": 1e9}
    check_loss(fine, 1, RecoverySettings())
    check_loss(fine, 1, RecoverySettings(max_loss=3.0))
    with pytest.raises(BadLossError, match=r"loss is 3, above recovery\.max_loss 2\.5, at step 7"):
        check_loss(fine, 7, RecoverySettings(max_loss=2.5))
    with pytest.raises(BadLossError, match="gradient_norm is nan at step 7"):
        check_loss(fine | {"gradient_norm": float("nan")}, 7, RecoverySettings())


def test_what_is_skipped_moves_all_later_batches_and_no_earlier_one():
    plain = BatchSampler(lengths=(50,), batch_size=4, seed=0)
    skipping = BatchSampler(lengths=(50,), batch_size=4, seed=0, skipped=((3, 2), (6, 1)))
    for step, place in ((0, 0), (2, 2), (3, 5), (5, 7), (6, 9), (9, 12)):
        assert skipping.place(step) == place
        np.testing.assert_array_equal(skipping.sample_ids(step), plain.sample_ids(place))


def test_steps_are_traced_into_a_folder_that_tensorboard_opens(shard, tmp_path):
    program = (
        "import sys\nfrom pretrain.train import pretrain\nfrom tests.pretrain.tiny import config\n"
        "pretrain(config(sys.argv[1], monitor={'profile': (3, 4)}), sys.argv[2], data_dir=sys.argv[2])"
    )  # in a process of its own: profilers reach into all of a process
    ended = subprocess.run([sys.executable, "-c", program, shard, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert f"steps 3 to 4 are traced in {tmp_path / 'profile'}" in ended.stdout, ended.stderr
    [trace] = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"XlaModule" in trace.read_bytes() or trace.stat().st_size > 10_000


def test_the_metrics_go_to_weights_and_biases_too(shard, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed (requirements-dev.txt)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    watched = config(shard, monitor={"wandb": "test"}, steps=4)
    pretrain(watched, tmp_path, data_dir=tmp_path)
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    run = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert run in file.name
    deadline = time.monotonic() + 60  # wandb's own process writes it, and `finish` may return before
    while b"gradient_norm" not in (content := file.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"gradient_norm" in content and b"tower" not in content and b"learning_rate" in content
    pretrain(config(shard, monitor={"wandb": "test"}, steps=4), tmp_path, data_dir=tmp_path)  # the same run there
    assert all(run in path.name for path in tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_the_best_checkpoint_is_kept_and_told(shard, tmp_path, capsys):
    kept = config(shard, keep_checkpoints=1, keep_best="learning_rate")
    pretrain(kept, tmp_path, data_dir=tmp_path)
    best = max(read_metrics(tmp_path / "metrics.jsonl"), key=lambda line: line["learning_rate"])["step"]
    assert best < 8 and set(final_checkpoints(tmp_path)) >= {f"step_{best}", "step_9"}
    assert f"best learning_rate: 0.009505 at step {best}; export it with --step={best}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recovery": {"on_bad_loss": "pray"}}, "unknown recovery.on_bad_loss 'pray'; known: stop, go_back"),
        ({"recovery": {"max_loss": -1.0}}, r"recovery\.max_loss is -1\.0; it must be a positive number"),
        ({"recovery": {"max_go_backs": 0}}, r"recovery\.max_go_backs is 0"),
        ({"monitor": {"profile": (5,)}}, r"monitor\.profile is \(5,\); it must be the first and the last step"),
        (
            {"monitor": {"stall_seconds": -1.0}},
            r"monitor\.stall_seconds is -1\.0; it must be a finite number, 0 or more",
        ),
        (
            {"monitor": {"price_per_hour": 0.0}},
            r"monitor\.price_per_hour is 0\.0; it must be a positive, finite number or None",
        ),
        ({"monitor": {"wandbb": "x"}}, r"unknown key monitor\.wandbb\. Did you mean 'wandb'\? Known: wandb, profile"),
        ({"keep_every": -1}, "pretrain.keep_every is -1; it must be a whole number, 0 or more"),
        ({"keep_best": "evaluation/x/knn@1"}, "keep_best is 'evaluation/x/knn@1', but evaluate_every is 0"),
    ],
)
def test_settings_that_cannot_be_are_told(shard, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        pretrain(config(shard, **change), tmp_path / "run", data_dir=tmp_path)
    assert not (tmp_path / "run").exists()

"""Runs are bitwise repeatable, resume bitwise after interruptions, and explain why they cannot start or resume."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from models.checkpoints.huggingface import weight_map_for
from models.checkpoints.io import open_checkpoint
from models.checkpoints.weight_map import to_tensors
from pretrain.checkpointing.export import export
from pretrain.checkpointing.manager import restore_parameters
from pretrain.monitoring.metric_writer import read_metrics
from pretrain.train import pretrain
from tests.data.shard_files import labelled, png, write_shard
from tests.pretrain.tiny import config, final_checkpoints, metrics_without_times, same_parameters


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(write_shard(tmp_path_factory.mktemp("data") / "s.tar", labelled(21)))


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    """A run without interruptions."""
    workdir = tmp_path_factory.mktemp("run")
    pretrain(config(shards), workdir, data_dir=workdir)
    return workdir


def test_the_same_seed_gives_bitwise_the_same_parameters(shards, finished, tmp_path):
    pretrain(config(shards), tmp_path, data_dir=tmp_path)
    assert same_parameters(finished, tmp_path)
    assert metrics_without_times(finished) == metrics_without_times(tmp_path)
    pretrain(config(shards, seed=1), tmp_path / "other", data_dir=tmp_path)
    assert not same_parameters(finished, tmp_path / "other")


@pytest.mark.parametrize("fails_at", [2, 3, 8])
def test_a_failed_run_resumes_to_the_same_bits(shards, finished, tmp_path, monkeypatch, fails_at):
    import data.pipeline.loader

    make = data.pipeline.loader.BatchLoader.rows

    def rows(self, step, rows):
        if step == fails_at:
            raise OSError("the disk went away")
        return make(self, step, rows)

    with monkeypatch.context() as broken:
        broken.setattr(data.pipeline.loader.BatchLoader, "rows", rows)
        with pytest.raises(OSError, match="the disk went away"):
            pretrain(config(shards), tmp_path, data_dir=tmp_path)
    result = pretrain(config(shards), tmp_path, data_dir=tmp_path)
    assert result.start_step == fails_at // 2 * 2 and result.step == 9
    assert same_parameters(finished, tmp_path)
    assert metrics_without_times(finished) == metrics_without_times(tmp_path)


def test_a_finished_run_is_not_changed(shards, finished):
    before = (finished / "metrics.jsonl").read_bytes()
    assert pretrain(config(shards), finished, data_dir=finished)[:2] == (9, 9)
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_a_run_does_not_resume_with_another_config(shards, finished):
    with pytest.raises(ValueError, match=r"contains a run with steps = 9, but this config sets 12"):
        pretrain(config(shards, steps=12), finished, data_dir=finished)
    with pytest.raises(ValueError, match=r"optimizer.learning_rate = 0.01"):
        pretrain(config(shards, optimizer={"learning_rate": 0.02, "warmup_steps": 2}), finished, data_dir=finished)
    assert pretrain(config(shards, log_every=3), finished, data_dir=finished).step == 9


def test_metrics_are_json_lines_and_tensorboard_events(finished):
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 9]
    assert {"loss", "logit_scale", "context_temperature", "effective_items", "pairs_per_second"} <= set(lines[0])
    assert all(line["equal_texts_per_row"] >= 0 for line in lines)
    assert list((finished / "tensorboard").glob("events.out.tfevents.*"))


def test_an_export_contains_the_newest_checkpoint(finished, tmp_path):
    opened = open_checkpoint(export(finished, tmp_path / "export"))
    step, parameters = restore_parameters(finished / "checkpoints")
    ours, theirs = (
        to_tensors(weight_map_for(opened.settings, "siglip"), p) for p in (parameters["model"], opened.parameters)
    )
    assert step == 9 and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert opened.scalars["logit_scale"] == pytest.approx(float(parameters["objective"]["logit_scale"]))


def test_an_export_without_a_checkpoint_names_the_job_to_run(shards, finished, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"contains no run. Start one with `launch.py pretrain"):
        export(tmp_path, tmp_path / "export")
    (tmp_path / "pretrain.json").write_bytes((finished / "pretrain.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"contains no checkpoint. Run `launch.py pretrain`"):
        export(tmp_path, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_loss_that_is_not_finite_stops_the_run(shards, tmp_path):
    wild = {"learning_rate": 1e30, "clip_norm": 1e30}
    with pytest.raises(FloatingPointError, match=r"Lower optimizer.learning_rate"):
        pretrain(config(shards, optimizer=wild), tmp_path, data_dir=tmp_path)


def shard_with_a_corrupt_image(folder: pathlib.Path, count: int) -> str:
    samples = labelled(count)
    samples[5] = ("0005", png(5)[:50], samples[5][2])
    return str(write_shard(folder / "s.tar", samples))


@pytest.mark.slow
def test_a_corrupt_image_is_replaced_and_logged_and_the_run_resumes_to_the_same_bits(tmp_path, monkeypatch, capsys):
    data = {"sources": (shard_with_a_corrupt_image(tmp_path, 30),), "max_bad_share": 0.2}
    pretrain(config("", data=data), tmp_path / "whole", data_dir=tmp_path)
    assert "replaced s.tar/0005: corrupt image" in capsys.readouterr().out
    [line] = [json.loads(line) for line in (tmp_path / "whole" / "bad_records.jsonl").read_text().splitlines()]
    assert (line["key"], line["reason"]) == ("s.tar/0005", "corrupt image")
    with monkeypatch.context() as broken:
        broken.setattr("pretrain.loop.check_loss", fail_at(6))
        with pytest.raises(OSError, match="it broke"):
            pretrain(config("", data=data), tmp_path / "broken", data_dir=tmp_path)
    data["workers"] = 2  # the run had none
    assert pretrain(config("", data=data), tmp_path / "broken", data_dir=tmp_path).start_step == 4
    assert same_parameters(tmp_path / "whole", tmp_path / "broken")
    assert (tmp_path / "broken" / "bad_records.jsonl").read_text().count("s.tar/0005") == 1


def fail_at(broken_step: int):
    def check(values, step, settings):
        if step == broken_step:
            raise OSError("it broke")

    return check


@pytest.mark.slow
def test_too_many_bad_records_stop_the_run(tmp_path):
    data = {"sources": (shard_with_a_corrupt_image(tmp_path, 12),), "bad_window": 60}
    with pytest.raises(ValueError, match=r"4 of the last \d+ records cannot be used \(4 corrupt image\)"):
        pretrain(config("", steps=90, data=data), tmp_path / "run", data_dir=tmp_path)


def test_a_run_does_not_resume_with_changed_data(tmp_path):
    path = write_shard(tmp_path / "s.tar", labelled(12))
    pretrain(config(str(path), steps=2), tmp_path / "run", data_dir=tmp_path)
    write_shard(path, labelled(13))
    with pytest.raises(ValueError, match=r"s\.tar had 12 samples \(fingerprint .*\) when this run began, but has 13"):
        pretrain(config(str(path), steps=2), tmp_path / "run", data_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "steps"), [({"examples": 17}, 3), ({"epochs": 1.5}, 4)])
def test_the_length_of_a_run_can_be_given_in_examples_or_epochs(shards, tmp_path, length, steps):
    values = {name: value for name, value in config(shards).items() if name != "steps"} | length
    assert pretrain(values, tmp_path, data_dir=tmp_path).step == steps  # batches of 8; an epoch has 21 samples
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == steps


def test_a_mixture_of_sources_trains_and_resumes(shards, tmp_path):
    other = str(write_shard(tmp_path / "other.tar", labelled(3)))
    data = {"sources": (shards, other), "weights": (3, 1)}
    assert pretrain(config("", steps=2, data=data), tmp_path / "run", data_dir=tmp_path).step == 2
    assert pretrain(config("", steps=2, data=data), tmp_path / "run", data_dir=tmp_path).start_step == 2
    data["weights"] = (1, 1)
    with pytest.raises(ValueError, match=r"data\.weights = \[3, 1\]"):
        pretrain(config("", steps=2, data=data), tmp_path / "run", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, r"unknown key pretrain\.stepz\. Did you mean 'steps'\? Known: seed, batch_size"),
        ({"objective": {"bass": "sigmoid"}}, r"unknown key objective\.bass\. Did you mean 'base'\? Known: base"),
        ({"text": {"length": 6}}, r"the config lacks text\."),
        ({"batch_size": 1}, "batch_size 1 leaves the context objective nothing"),
        ({"steps": 0}, "pretrain.steps is 0; it must be a positive whole number or None"),
        ({"data": {"sources": ()}}, r"data\.sources is \(\); it must be a tuple of one or more strings"),
        ({"data": {"sources": ("x",), "threads": 0}}, r"data\.threads is 0; it must be a positive whole number"),
        ({"data": {"sources": ("x",), "weights": (1, 2)}}, r"data\.weights has 2 numbers for 1 sources"),
        (
            {"data": {"sources": ("x",), "text_keys": ()}},
            r"data\.text_keys is \(\); it must be a tuple of one or more strings",
        ),
        (
            {"data": {"sources": ("x",), "max_bad_share": 5}},
            r"data\.max_bad_share is 5; it must be a number from 0 to 1",
        ),
        (
            {"data": {"sources": ("x",), "caption": "frist"}},
            r"unknown data\.caption 'frist'\. Did you mean 'first'\? Known: first",
        ),
        ({"epochs": 3}, "is one of steps, examples and epochs; the config sets steps=9, epochs=3"),
        ({"recovery": {"on_bad_loss": "pray"}}, r"unknown recovery\.on_bad_loss 'pray'\. Known: stop, rollback"),
        (
            {"recovery": {"max_loss": -1.0}},
            r"recovery\.max_loss is -1\.0; it must be a positive, finite number or None",
        ),
        ({"recovery": {"max_rollbacks": 0}}, r"recovery\.max_rollbacks is 0; it must be a positive whole number"),
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
        ({"steps": None}, "the config sets none of them"),
    ],
)
def test_an_invalid_config_raises_before_anything_is_written(shards, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        pretrain(config(shards, **change), tmp_path / "run", data_dir=tmp_path)
    assert not (tmp_path / "run").exists()


def test_missing_sources_raise_before_anything_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file matches"):
        pretrain(config(str(tmp_path / "none-*.tar")), tmp_path / "run", data_dir=tmp_path)
    assert not (tmp_path / "run").exists()


def launch_pretrain(shards, folder, workdir, prelude=""):
    """Run `launch.py pretrain` in a process of its own, after a line of Python."""
    folder.mkdir(exist_ok=True)
    sections = {"data_dir": str(folder), "pretrain": config(shards)}
    (folder / "config.py").write_text(
        f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({sections!r})\n"
    )
    program = f"{prelude}\nimport launch, sys; sys.exit(launch.main(sys.argv[1:]))"
    arguments = ["pretrain", f"--config={folder / 'config.py'}", f"--workdir={workdir}"]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_a_failed_write_leaves_no_checkpoint_with_a_final_name(shards, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    run = launch_pretrain(shards, tmp_path / "config", tmp_path / "run", prelude=limit)
    assert run.returncode == 1
    assert run.stderr.count("error: a checkpoint could not be written to") == 1 and "(File too large)" in run.stderr
    assert final_checkpoints(tmp_path / "run") == []


@pytest.mark.slow
def test_a_disk_without_space_for_a_checkpoint_is_one_error_line(shards, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs more rights than this process has: {mounted.stderr.strip()}")
    try:
        (disk / "filler").write_bytes(b"0" * 9_000_000)
        run = launch_pretrain(shards, tmp_path / "config", disk / "run")
        assert run.returncode == 1
        assert run.stderr.count("\n") == 1 and "a checkpoint needs 4.1 MB" in run.stderr, run.stderr
        assert final_checkpoints(disk / "run") == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_rule_that_matches_no_parameter_raises_before_anything_is_written(shards, tmp_path):
    wrong = {"learning_rate": 1e-2, "frozen": ("model/visoin/",)}
    with pytest.raises(
        ValueError, match=r"optimizer\.frozen rule 'model/visoin/' matches no parameter\. Nearest: model/vis"
    ):
        pretrain(config(shards, optimizer=wrong), tmp_path / "run", data_dir=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_resumes_with_other_microbatches_and_remat(shards, tmp_path):
    pretrain(config(shards, steps=4), tmp_path, data_dir=tmp_path)
    changed = {"microbatch_size": 4, "remat": "full", "objective": {"base": "sigmoid", "block_size": 3}}
    result = pretrain(config(shards, steps=4, **changed), tmp_path, data_dir=tmp_path)
    assert result.start_step == 4
    with pytest.raises(ValueError, match=r"objective\.alpha = 0\.9, but this config sets 0.5"):
        pretrain(config(shards, steps=4, objective={"alpha": 0.5}), tmp_path, data_dir=tmp_path)


@pytest.mark.slow
def test_a_run_with_parameter_rules_resumes_and_exports(shards, tmp_path):
    changed = {
        "optimizer": {"learning_rate": 1e-2, "learning_rate_rules": (("text/", 0.1),), "frozen": ("vision/head/",)},
        "mesh": {"rules": (("token_embedding$", (None, "fsdp")),)},
    }
    pretrain(config(shards, steps=2, **changed), tmp_path, data_dir=tmp_path)
    assert pretrain(config(shards, steps=2, **changed), tmp_path, data_dir=tmp_path).start_step == 2
    assert open_checkpoint(export(tmp_path, tmp_path / "export")).settings.text.length == 6

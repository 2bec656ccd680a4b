"""The job `align` from features to results, on the command line."""

import json
import pathlib

import numpy as np
import pytest

import launch
from cluster.job_array import plan_tasks
from jobs.submission import check_command
from models.checkpoints.io import save_checkpoint
from pretrain.monitoring.metric_writer import read_metrics
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint
from tests.pretrain.align.tiny import write_features, write_ids

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ["--config.align.steps=4", "--config.align.epochs=None", "--config.align.batch_size=8"]
SMALL += ["--config.align.optimizer.warmup_steps=1", "--config.align.log_every=2", "--config.align.checkpoint_every=2"]


def run(job, folder, *given):
    options = [f"--config={ROOT / 'configs/align.py'}", f"--workdir={folder / 'run'}"]
    return launch.main([job, *options, f"--config.data_dir={folder}", *given])


def features_of(folder):
    return [f"--config.align.{side}_features={folder}" for side in ("image", "text")]


def test_features_of_embed_are_aligned_exported_and_evaluated(tmp_path, capsys):
    clip = save_checkpoint(tmp_path / "clip", tiny_checkpoint("clip"))
    shard = write_shard(tmp_path / "s.tar", labelled(24))
    keys = [f"s.tar/{number:04d}" for number in range(24)]
    texts = [json.dumps({"id": key, "text": f"a red fish {number}"}) for number, key in enumerate(keys)]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts))
    out = tmp_path / "features"
    given = [f"--images={shard}", f"--texts={tmp_path / 'texts.jsonl'}", f"--data_dir={tmp_path}"]
    assert launch.main(["embed", f"--checkpoint={clip}", *given, f"--out={out}"]) == 0
    evaluated = [f"--config.evaluate.datasets={shard}", "--config.evaluate.shots=1", "--config.evaluate.seeds=2"]
    evaluated += ["--config.evaluate.methods=zero_shot,prototypes", "--config.evaluate.min_examples=1"]
    linear = [f"--config.align.{side}_head.kind=linear" for side in ("image", "text")]
    every = ["--config.align.evaluate_every=2", "--config.align.dim=6"]
    assert run("align", tmp_path, *features_of(out), *SMALL, *linear, *every, *evaluated) == 0
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert any(name.startswith("evaluation/") for line in logged for name in line)
    assert "paired by id: 24 images with 24 texts" in capsys.readouterr().out
    assert run("inspect", tmp_path, *features_of(out)) == 0
    assert "no estimate from 24 usable pairs" in capsys.readouterr().out
    assert run("export", tmp_path) == 0
    assert run("evaluate", tmp_path, *evaluated) == 0
    assert "prototypes" in (tmp_path / "run" / "evaluation" / "results.jsonl").read_text()
    assert run("export", tmp_path, "--format=huggingface", f"--out={tmp_path / 'folded'}") == 0
    assert json.loads((tmp_path / "folded" / "config.json").read_text())["projection_dim"] == 6
    assert launch.main(["convert", f"--checkpoint={tmp_path / 'run/export'}", f"--out={tmp_path / 'x.npz'}"]) == 1
    assert "holds heads on the features of other encoders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: np.save(folder / "texts.npy", np.ones((7, 8))), "24 images but 7 rows of texts"),
        (lambda folder: write_ids(folder, "images", ["a"] * 24), "the id 'a' occurs more than once"),
        (lambda folder: write_ids(folder, "images", range(3)), "has 3 ids, but images.npy has 24 rows"),
        (lambda folder: np.save(folder / "images.npy", np.full((24, 3), np.nan)), "value that is not finite"),
        (lambda folder: (folder / "images.npy").unlink(), "has no images.safetensors or images.npy"),
        (lambda folder: (folder / "images.npy").write_bytes(b"x"), "cannot be read as features"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_workdir(tmp_path, capsys, change, problem):
    (tmp_path / "f").mkdir()
    features = write_features(tmp_path / "f")
    if problem.startswith("the id"):
        write_ids(features, "texts", ["a"] * 24)
    change(features)
    assert run("align", tmp_path, *features_of(features), *SMALL) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and problem in errors[0]
    assert not (tmp_path / "run" / "align.json").exists()


def test_a_config_without_the_section_of_a_job_is_refused(tmp_path, capsys):
    given = [f"--config={ROOT / 'configs/emoji.py'}", f"--workdir={tmp_path}"]
    assert launch.main(["align", *given]) == 1
    assert "the config has no section align" in capsys.readouterr().err


def test_align_is_a_job_of_all_processes_of_a_submitted_task(tmp_path):
    check_command(["align", f"--config={ROOT / 'configs/align.py'}", f"--workdir={tmp_path}"], remote=False)
    with pytest.raises(ValueError, match=r"align.epochs is -1"):
        given = [f"--config={ROOT / 'configs/align.py'}", f"--workdir={tmp_path}", "--config.align.epochs=-1"]
        check_command(["align", *given], remote=False)
    [task] = plan_tasks(["align", "export"], config="c.py", workdir=tmp_path)
    assert [command.collective for command in task.commands] == [True, False]

"""Evaluation during training gives the results of a later evaluation and does not change the training."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import launch
from models.checkpoints.huggingface import weight_map_for
from models.checkpoints.io import open_checkpoint
from models.checkpoints.weight_map import to_tensors
from pretrain.checkpointing.manager import restore_parameters
from pretrain.monitoring.metric_writer import read_metrics
from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.test_train import fail_at
from tests.pretrain.tiny import config, metrics_without_times, same_parameters


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    return str(write_shard(tmp_path_factory.mktemp("data") / "s.tar", labelled(30)))


@pytest.fixture(scope="module")
def plain(shard, tmp_path_factory):
    """A run without evaluations."""
    workdir = tmp_path_factory.mktemp("run")
    pretrain(config(shard), workdir, data_dir=workdir)
    return workdir


class Stub:
    """An evaluation that records its calls and returns the step as its only scalar."""

    def __init__(self, finish=lambda step: None):
        self.steps, self.scalars, self.finish = [], [], finish

    def __call__(self, step, export):
        self.steps.append(step)
        opened = open_checkpoint(export)
        self.newest = to_tensors(weight_map_for(opened.settings, "siglip"), opened.parameters)

        def finish():
            self.finish(step)
            return {"set/knn@1": float(step)}

        return finish


def evaluations_of(workdir):
    """Return the pairs (step, scalar) in the metrics of a run."""
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if "evaluation/set/knn@1" in line]
    return [(line["step"], line["evaluation/set/knn@1"]) for line in lines]


def train(shard, workdir, stub, **changes):
    return pretrain(config(shard, evaluate_every=3, **changes), workdir, data_dir=workdir, evaluate=stub)


@pytest.mark.slow
def test_evaluation_in_the_background_does_not_change_the_training(shard, plain, tmp_path, capsys):
    def wait_for_the_next_step(step):
        deadline = time.monotonic() + 60
        while step == 3 and not any(line["step"] == 4 for line in read_metrics(tmp_path / "metrics.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    stub = Stub(wait_for_the_next_step)
    train(shard, tmp_path, stub)
    assert stub.steps == [3, 6, 9] and evaluations_of(tmp_path) == [(3, 3.0), (6, 6.0), (9, 9.0)]
    assert same_parameters(plain, tmp_path)
    assert [line for line in metrics_without_times(tmp_path) if "loss" in line] == metrics_without_times(plain)
    parameters = restore_parameters(tmp_path / "checkpoints")[1]["model"]
    ours = to_tensors(weight_map_for(open_settings(tmp_path), "siglip"), parameters)
    assert all(np.array_equal(ours[name], stub.newest[name]) for name in ours)  # the last export is the last step's
    assert [path.name for path in (tmp_path / "evaluations" / "step-00000003").iterdir()] == ["scalars.json"]
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    assert events.read_bytes().count(b"evaluation/set/knn_1") == 3  # as TensorBoard spells it
    assert "evaluation at step 3  set/knn@1 300.0%" in capsys.readouterr().out


def open_settings(workdir):
    from models.text.tokenizer import load_tokenizer
    from pretrain.config.run import load_settings

    settings = load_settings(workdir)
    return settings.model_for(load_tokenizer(workdir / "tokenizer", length=settings.text["length"]))


@pytest.mark.slow
def test_a_resumed_run_repeats_failed_and_missing_evaluations_only(shard, plain, tmp_path, monkeypatch, capsys):
    def fails(step):
        if step == 3:
            raise OSError("the disk is full\nand more")

    with monkeypatch.context() as broken:
        broken.setattr("pretrain.loop.check_loss", fail_at(8))
        with pytest.raises(OSError, match="it broke"):
            train(shard, tmp_path, Stub(fails))  # an evaluation that fails in the background does not stop the training
    expected = "warning: the evaluation at step 3 failed (the disk is full). It is repeated when the run is resumed.\n"
    assert expected in capsys.readouterr().out
    stub = Stub()
    assert train(shard, tmp_path, stub).start_step == 6
    assert stub.steps == [3, 9] and sorted(evaluations_of(tmp_path)) == [(3, 3.0), (6, 6.0), (9, 9.0)]
    assert same_parameters(plain, tmp_path)

    (tmp_path / "metrics.jsonl").unlink()  # numbers that were not logged are not computed again
    train(shard, tmp_path, stub)
    assert stub.steps == [3, 9] and evaluations_of(tmp_path) == [(3, 3.0), (6, 6.0), (9, 9.0)]


def test_evaluate_every_requires_an_evaluation(shard, tmp_path):
    with pytest.raises(ValueError, match="evaluate_every is 3, but no evaluation was passed"):
        train(shard, tmp_path / "run", None)
    with pytest.raises(ValueError, match=r"pretrain\.evaluate_every is -1; it must be a whole number, 0 or more"):
        pretrain(config(shard, evaluate_every=-1), tmp_path / "run", data_dir=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def given(shard, tmp_path_factory):
    """Command-line arguments with a config whose evaluation in training has fewer datasets than the later one."""
    folder = tmp_path_factory.mktemp("project")
    evaluate = {"datasets": (shard, "digits"), "retrieval": (shard,), "shots": (1, 2), "seeds": 2, "caption": "first"}
    sections = {
        "data_dir": str(folder / "data"),
        "pretrain": config(shard, evaluate_every=3),
        "evaluate": evaluate | {"methods": ("zero_shot", "knn"), "min_examples": 4},
        "evaluate_in_training": {"datasets": (shard,)},
    }
    (folder / "config.py").write_text(
        f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({sections!r})\n"
    )
    return [f"--config={folder / 'config.py'}"]


def rows_of(folder: pathlib.Path) -> list[dict]:
    names = ("checkpoint", "checkpoint_path", "predictions", "examples")
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


@pytest.mark.slow
def test_results_equal_those_of_a_later_evaluation(shard, plain, given, tmp_path, capsys):
    given = [*given, f"--workdir={tmp_path}"]
    assert launch.main(["pretrain", *given, "--config.pretrain.keep_evaluated_exports=True"]) == 0
    output = capsys.readouterr().out
    assert output.count("evaluation at step ") == 3 and "s.tar/zero_shot " in output
    assert same_parameters(plain, tmp_path)
    assert launch.main(["export", *given]) == 0
    assert launch.main(["evaluate", *given, f"--datasets={shard},", "--config.evaluate.baselines="]) == 0
    folders = [tmp_path / "evaluations" / f"step-{step:08d}" for step in (3, 6, 9)]
    assert {row["dataset"] for row in rows_of(folders[0])} == {"s.tar", shard}  # not digits
    assert rows_of(folders[2]) == rows_of(tmp_path / "evaluation")
    assert not (folders[0] / "embeddings").exists()
    arguments = [f"--workdir={tmp_path / 'again'}", f"--checkpoint={folders[0] / 'export'}", f"--datasets={shard},"]
    assert launch.main(["evaluate", *given, *arguments, "--config.evaluate.baselines="]) == 0
    assert rows_of(folders[0]) == rows_of(tmp_path / "again" / "evaluation") != rows_of(folders[2])
    rows = [row for row in rows_of(folders[0]) if row["method"] == "knn" and row["shots"] == 2]
    [line] = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["step"] == 3]
    assert line["evaluation/s.tar/knn@2"] == pytest.approx(np.mean([row["value"] for row in rows]))
    assert {"evaluation/s.tar/zero_shot", "evaluation/s.tar/text_to_image_recall@10"} <= set(line)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("evaluate_in_training.datasets=nowhere.tar,", "no file matches 'nowhere.tar'"),
        ("evaluate_in_training.datasets=dtd,", "dtd not found in "),
        ("evaluate_in_training.retrieval=nowhere.tar,", "no file matches 'nowhere.tar'"),
        (
            "evaluate_in_training.shotz=1",
            "unknown config key 'evaluate_in_training.shotz': no setting is named 'shotz'. Did you mean 'shots'? "
            "Known: baselines, canonicalize, caption",
        ),
    ],
)
def test_evaluation_errors_are_reported_before_the_first_step(given, tmp_path, capsys, change, message):
    assert launch.main(["pretrain", *given, f"--workdir={tmp_path / 'run'}", f"--config.{change}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and not (tmp_path / "run").exists()


def evaluate_in_process(process: int, port: int, workdir: str, shard: str) -> None:
    """Evaluate in one of two processes; write which parts it has embedded and which methods it has fitted."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    from jax.sharding import NamedSharding, PartitionSpec

    import adapt.embedding.cache
    import adapt.evaluation.checkpoint_evaluator
    from adapt.evaluation.config import EvaluateSettings
    from adapt.evaluation.online import EvaluationInTraining
    from pretrain.checkpointing.export import export_parameters
    from pretrain.config.run import load_settings
    from pretrain.distributed import sharding
    from pretrain.monitoring.metric_writer import MetricsWriter
    from pretrain.online_evaluation import Evaluations

    made, fitted = [], []
    cache, evaluator = adapt.embedding.cache, adapt.evaluation.checkpoint_evaluator
    save, grid = cache.save_array, evaluator.run_grid
    cache.save_array = lambda path, array: (
        made.append(f"{path.parent.name}/{path.name}"),
        save(path, array),
    )
    evaluator.run_grid = lambda *args, **named: (fitted.append(args[0]), grid(*args, **named))[1]
    cache.PIECE_ROWS = 20  # rows
    workdir = pathlib.Path(workdir)
    mesh = sharding.create_mesh(fsdp=2)

    def placed(array):
        split = next((axis for axis, size in enumerate(array.shape) if size % 2 == 0), None)
        spec = PartitionSpec() if split is None else PartitionSpec(*[None] * split, "fsdp")
        return jax.make_array_from_callback(array.shape, NamedSharding(mesh, spec), array.__getitem__)

    parameters = jax.tree.map(placed, restore_parameters(workdir / "checkpoints")[1])
    settings = EvaluateSettings(datasets=(shard,), shots=(1, 2), seeds=2, methods=("knn",))
    own = workdir / f"host-{process}"
    own.mkdir()
    writer = MetricsWriter(own) if process == 0 else None
    evaluations = Evaluations(
        workdir,
        dataclasses.replace(load_settings(workdir), evaluate_every=9),
        EvaluationInTraining(settings, own),
        export=functools.partial(export_parameters, workdir),
        writer=writer,
    )
    evaluations.after(9, parameters)
    evaluations.finish()
    evaluations.after(9, parameters)  # is there
    evaluations.close()
    if writer is not None:
        writer.close()
    (own / "seen.json").write_text(json.dumps({"made": made, "fitted": fitted}))


@pytest.mark.slow
def test_two_processes_embed_and_only_the_first_fits(shard, plain, tmp_path):
    run = shutil.copytree(plain, tmp_path / "run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    program = "from tests.test_in_training import evaluate_in_process as f; f({}, {}, {!r}, {!r})"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program.format(number, port, str(run), shard)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    first, second = (json.loads((run / f"host-{number}" / "seen.json").read_text()) for number in range(2))
    assert [name for name in second["made"] if name.startswith("images-")] == [second["made"][0]]
    assert second["made"][0].endswith("/000000020.npy") and len(second["made"]) == 1
    assert "knn" in first["fitted"] and second["fitted"] == []
    folder = run / "evaluations" / "step-00000009"
    assert not (folder / "export").exists() and not (folder / "embeddings").exists()
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert {row["method"] for row in rows} == {"zero_shot", "knn"}
    first, again = read_metrics(run / "host-0" / "metrics.jsonl")
    assert first["step"] == again["step"] == 9
    assert first["evaluation/s.tar/knn@2"] == again["evaluation/s.tar/knn@2"]

"""Attention shares of the study's runs, and their accuracy close to the training data."""

import csv
import json
import types

import numpy as np
import pytest

from benchmarks.study import attention as study_attention
from benchmarks.study import files as study_files
from benchmarks.study import near as study_near
from benchmarks.study import page as study_page
from benchmarks.study import variant_objective
from benchmarks.study.arms import Arm
from pretrain.config.run import SECTIONS
from tests.benchmarks.study.test_tables import write_pairs
from tests.data.shard_files import labelled, write_shard

CONTEXT, VIEWS = "pretrain.objective.context", "pretrain.data.views"


def shares(u, texts, temperature, self_mask):
    return study_attention.shares(u, texts, temperature=temperature, self_mask=self_mask)


def test_attention_share_counts_the_samples_with_similar_texts():
    u = np.eye(4)
    texts = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [np.sqrt(0.5), np.sqrt(0.5)]])
    attended, share, base = shares(u, texts, 1.0, True)  # orthogonal images attend to all others equally
    assert attended == pytest.approx(3.0)
    assert share == pytest.approx(base) == pytest.approx((2 + 2 + 1 + 3) / 12)  # cosine 0.71 counts
    attended, share, _ = shares(u, texts, 1e-3, False)  # each to itself
    assert (attended, share) == pytest.approx((1.0, 1.0))
    near = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    attended, share, base = shares(near, np.eye(2)[[0, 0, 1, 1]], 0.05, True)
    assert attended == pytest.approx(1.0, abs=1e-3) and share > 0.999 and base == pytest.approx(1 / 3)


def test_gains_are_over_the_plain_arm_of_the_same_batches_and_seeds(tmp_path, monkeypatch):
    points = [{VIEWS: v, CONTEXT: c} for v in (1, 2) for c in (False, True)]
    arms = [
        Arm(point, dict.fromkeys(seeds)) for point, seeds in zip(points, [(0, 1), (0, 1), (0, 1), (1,)], strict=True)
    ]
    scores = {}
    for number, arm in enumerate(arms):
        for seed in arm.runs:
            for dataset in study_near.DATASETS:
                for method, shots in [
                    ("zero_shot", 0),
                    *((m, k) for m in study_near.METHODS for k in study_near.SHOTS),
                ]:
                    value = 0.1 * number + 0.3 * seed + 0.01 * (seed * number == 1)
                    scores[study_near.name_of("t", number, seed), dataset, method, shots] = value
    rows = study_near.compare("t", arms, accuracies=scores)
    assert [row[2:4] for row in rows[:4]] == [
        ["views 1, context False", "2"],
        ["views 1, context True", "2"],
        ["views 2, context False", "2"],
        ["views 2, context True", "1"],
    ]
    assert [row[4] for row in rows[:4]] == ["15.0", "+10.5 ± 6.4", "35.0", "+10.0"]
    monkeypatch.setattr(study_near, "ROWS", tmp_path / "near.csv")
    study_near.write_rows({"t": arms}, scores)
    written = list(csv.DictReader((tmp_path / "near.csv").open()))
    assert len(written) == len(scores) == 7 * 2 * 7
    [row] = [
        r for r in written if (r["arm"], r["dataset"], r["method"]) == ("views 2, context True", "emoji", "zero_shot")
    ]
    assert (row["seed"], row["accuracy"]) == ("1", "0.60000")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with two evaluated pairs of the sweep `small`."""
    write_pairs(tmp_path / "runs" / "study" / "small")
    results = tmp_path / "docs" / "study"
    results.mkdir(parents=True)
    page = tmp_path / "docs" / "results" / "study.md"
    page.parent.mkdir()
    page.write_text("<!-- scratch -->\nold\n<!-- end of scratch -->\n")
    for module in (study_near, study_attention, study_page):
        for name, value in {"ROOT": tmp_path, "RUNS": tmp_path / "runs" / "study", "RESULTS": results}.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(study_near, "ROWS", results / "near.csv")
    monkeypatch.setattr(study_page, "PAGE", page)
    monkeypatch.setitem(SECTIONS, "objective", SECTIONS["objective"])
    return tmp_path


def test_near_main_evaluates_all_runs_in_one_command_and_writes_their_rows(project, monkeypatch, capsys):
    commands = []

    def evaluate(command, **_):
        commands.append(command)
        [checkpoints] = [word for word in command if word.startswith("--checkpoint=")]
        folder = project / "runs" / "study" / "near" / "evaluation"
        folder.mkdir(parents=True)
        with open(folder / "results.jsonl", "w") as file:
            for named in checkpoints.removeprefix("--checkpoint=").split(","):
                name = named.partition("=")[0]
                for dataset in study_near.DATASETS:
                    for method, shots in study_near.CELLS:
                        row = {"checkpoint": name, "dataset": dataset, "method": method, "shots": shots}
                        value = 0.3 if name.startswith("small-1") else 0.2
                        file.write(json.dumps({**row, "task": "few_shot", "value": value}) + "\n")
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(study_near.subprocess, "run", evaluate)
    assert study_near.main([]) == 0
    assert len(commands) == 1 and "small-0-0=runs/study/small/seed=0,context=False/export" in " ".join(commands[0])
    assert "| emoji | small | context True | 2 | +10.0 ± 0.0 |" in capsys.readouterr().out
    rows = list(csv.DictReader((project / "docs" / "study" / "near.csv").open()))
    assert len(rows) == 4 * 2 * 7 and {row["arm"] for row in rows} == {"context False", "context True"}


@pytest.mark.parametrize("module", [study_near, study_attention])
def test_without_runs_the_command_that_makes_them_is_named(module, project, monkeypatch, capsys):
    monkeypatch.setattr(module, "RUNS", project / "empty")
    assert module.main([]) == 1
    assert "`python -m benchmarks.study.tables` makes them" in capsys.readouterr().err


def test_attention_main_writes_the_mean_over_the_seeds_of_every_arm_with_context(project, monkeypatch, capsys):
    monkeypatch.setattr(
        study_attention, "measure", lambda workdir, *, temperature: study_attention.AttentionShares(3, 0.25, 0.02)
    )
    assert study_attention.main([]) == 0
    assert "small  context True  2  0.080  3.0  0.250  0.020" in capsys.readouterr().out
    [row] = study_files.read_csv(project / "docs" / "study" / "attention.csv")
    assert row == dict(
        zip(study_attention.COLUMNS, ["small", "context True", "2", "0.080", "3.0", "0.250", "0.020"], strict=True)
    )


@pytest.mark.slow
def test_a_variant_trains_exports_and_its_attention_is_measured(project, monkeypatch):
    monkeypatch.chdir(project)
    shards = project / "shards"
    shards.mkdir()
    write_shard(shards / "train-00000.tar", labelled(24))
    config = project / "config.py"
    config.write_text("from configs.study.variants import get_config\n")
    sizes = {"image_size": 12, "patch_size": 6, "width": 8, "depth": 1, "heads": 1, "mlp_width": 8}
    settings = {f"vision.{name}": value for name, value in sizes.items()}
    settings |= {f"text.{name}": sizes[name] for name in ("width", "depth", "heads", "mlp_width")}
    settings |= {"data.sources": f"{shards}/*.tar,", "tokenizer.name": "train:60", "examples": 16, "batch_size": 8}
    settings |= {"optimizer.warmup_steps": 1, "log_every": 1, "scan_unroll": 1, "augmentation.keep_patches": 1.0}
    settings |= {"objective.memory": 8, "objective.context_temperature": 100.0}
    given = [f"--config={config}", f"--workdir={project / 'run'}", f"--config.data_dir={project}"]
    given += [f"--config.pretrain.{name}={value}" for name, value in settings.items()]
    assert variant_objective.main(["pretrain", *given]) == 0
    assert variant_objective.main(["export", *given]) == 0
    last = json.loads((project / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2 and last["effective_items"] == pytest.approx(15, abs=0.01)  # 7 others and 8 of step 1
    found = study_attention.measure(project / "run", temperature=100.0)
    assert found.attended_items == pytest.approx(7, abs=0.01) and 0 <= found.similar_texts <= 1

"""Summaries of the study's sweeps: arms are paired by seed, means run over datasets, and every row is written."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.study import arms as study_arms
from benchmarks.study import figures as study_figures
from benchmarks.study import page as study_page
from benchmarks.study import tables as study
from benchmarks.study import variant_objective
from pretrain.losses.pairwise_blocks import BlockLayout

SWEEP = """
from configs import grid
def get_config():
    raise AssertionError("nothing is run")
def get_sweep():
    return grid({"pretrain.seed": (0, 1), "pretrain.objective.context": (False, True)})
"""
MANY = """
def get_sweep():
    contexts = [{"pretrain.objective.context": False}]
    contexts += [{"pretrain.objective.context": True, "pretrain.objective.alpha": alpha} for alpha in (0.5, 0.7, 0.9)]
    start = "pretrain.initial_checkpoint"
    return [{"pretrain.seed": s, start: f"runs/seed={s}/export", **context} for s in (0, 1) for context in contexts]
"""
DATASETS = {"few": 2, "many": 10}


def write_run(folder, value):
    """Write an evaluated run with the few-shot accuracy `value(dataset, shots)`."""
    (folder / "evaluation").mkdir(parents=True)
    rows = []
    for dataset, classes in DATASETS.items():
        given = {"checkpoint": "export", "dataset": dataset, "classes": classes, "metric": "accuracy"}
        rows.append({**given, "task": "few_shot", "method": "zero_shot", "shots": 0, "value": 0.5})
        for shots in (1, 4, 16):
            for noise in (-0.01, 0.01):
                score = value(dataset, shots) + noise
                rows.append({**given, "task": "few_shot", "method": "knn", "shots": shots, "value": score})
    retrieval = {"checkpoint": "export", "dataset": "photos", "task": "retrieval", "method": "zero_shot", "shots": 0}
    for metric in ("text→image recall@10", "image→text recall@10"):
        rows.append({**retrieval, "metric": metric, "value": 0.25, "examples": "none"})
    (folder / "evaluation" / "examples").mkdir()
    (folder / "evaluation" / "examples" / "none.json").write_text("[]")
    (folder / "evaluation" / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pretrain.json").write_text(json.dumps({"batch_size": 8, "vision": {"width": 16}}))
    line = {"step": 9, "context_temperature": 0.02, "effective_items": 3}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "jobs.jsonl").write_text(json.dumps({"name": "pretrain", "seconds": 60}) + "\n")


def write_pairs(folder, seeds=(0, 1)):
    """Write runs with and without context; context gains 2 to 8 points."""
    gains = {("few", 0): 0.02, ("many", 0): 0.06, ("few", 1): 0.04, ("many", 1): 0.08}
    for seed in seeds:
        write_run(folder / f"seed={seed},context=False", lambda dataset, shots: 0.1 * np.log2(2 * shots))
        write_run(
            folder / f"seed={seed},context=True",
            lambda dataset, shots, seed=seed: 0.1 * np.log2(2 * shots) + gains[dataset, seed],
        )


@pytest.fixture
def arms(tmp_path):
    (tmp_path / "sweep.py").write_text(SWEEP)
    write_pairs(tmp_path)
    return study_arms.read_arms(tmp_path / "sweep.py", tmp_path)


def test_gains_are_paired_by_seed_and_dataset(arms):
    plain, context = arms
    assert study_arms.find_plain(context, arms) is plain and study_arms.find_plain(plain, arms) is None
    found = study_arms.gain(plain, context, lambda scores, dataset: scores.few_shot(dataset, "knn", 4), list(DATASETS))
    assert found.mean == pytest.approx(0.05) and found.over_seeds == pytest.approx(12.706 * 0.01, rel=1e-3)
    assert (found.over_datasets.low, found.over_datasets.high) == pytest.approx((0.03, 0.07))
    assert str(found) == "+5.0 ± 12.7 [+3.0, +7.0]"


def test_summary_and_rows_hold_every_number(arms, tmp_path):
    text = study.summarize(arms, "small")
    assert "| context True | 2 | 50.0 | 55.0 | 25.0 | 0.08 | 3 |" in text
    assert r"| knn | +5.0 ± 12.7 \[+3.0, +7.0] |" in text and "4 runs, 4 minutes" in text
    assert text.index("| few | 2 |") < text.index("| many | 10 |")
    assert "knn 1.41, 1.41, –" in text  # two to the power of a half
    study.write_rows(arms, tmp_path / "rows.csv")
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert len(rows) == 4 * (2 * (1 + 3) + 2)
    [row] = [r for r in rows if (r["context"], r["seed"], r["dataset"], r["shots"]) == ("True", "1", "many", "16")]
    assert float(row["mean"]) == pytest.approx(0.58)


def test_figures_show_the_arms_and_are_standalone_files(arms, tmp_path):
    paths = study_figures.draw(arms, "small", tmp_path / "study")
    names = ["shots", "classes", "temperature", "attended"]
    assert [path.name for path in paths] == [f"small-{name}.svg" for name in names]
    drawn = {name: (tmp_path / "study" / f"small-{name}.svg").read_text() for name in names}
    assert all(svg.startswith('<svg style="background:#fff') for svg in drawn.values())
    assert all(name in drawn["classes"] for name in DATASETS) and "knn, plain" in drawn["shots"]
    plain, _ = arms
    assert study_figures.draw([plain], "small", tmp_path / "study") == []


def test_many_arms_share_one_table_and_initial_checkpoints_of_two_seeds_are_one_arm(tmp_path):
    (tmp_path / "sweep.py").write_text(MANY)
    for seed in (0, 1):
        for name in ("context=False", "context=True,alpha=0.5", "context=True,alpha=0.7", "context=True,alpha=0.9"):
            folder = tmp_path / f"seed={seed},initial_checkpoint=runs_seed={seed}_export,{name}"
            write_run(folder, lambda dataset, shots, name=name: 0.3 + 0.1 * ("True" in name))
    arms = study_arms.read_arms(tmp_path / "sweep.py", tmp_path)
    assert [(arm.name, len(arm.runs)) for arm in arms][:2] == [("context False", 2), ("context True, alpha 0.5", 2)]
    text = study.summarize(arms, "many")
    assert r"| context True, alpha 0.7 | +0.0 ± 0.0 \[+0.0, +0.0] | +10.0" in text and "| few |" not in text


def test_a_missing_run_is_reported_and_left_out(arms, tmp_path, capsys):
    (tmp_path / "seed=1,context=True" / "evaluation" / "results.jsonl").unlink()
    [plain, context] = study_arms.read_arms(tmp_path / "sweep.py", tmp_path)
    assert list(plain.runs) == [0, 1] and list(context.runs) == [0]
    assert "seed=1,context=True is not evaluated yet" in capsys.readouterr().err


def test_put_replaces_the_text_between_its_markers(tmp_path, monkeypatch):
    page = tmp_path / "STUDY.md"
    page.write_text("a\n<!-- small -->\nold\n<!-- end of small -->\nb\n")
    monkeypatch.setattr(study_page, "PAGE", page)
    study_page.put("new", "small")
    assert page.read_text() == "a\n<!-- small -->\nnew\n<!-- end of small -->\nb\n"


def test_main_writes_rows_figures_and_page_of_finished_runs(tmp_path, monkeypatch, capsys):
    runs, results = tmp_path / "runs", tmp_path / "study"
    write_pairs(runs / "small")
    page = tmp_path / "STUDY.md"
    page.write_text("a\n")
    monkeypatch.setattr(study, "RUNS", runs)
    monkeypatch.setattr(study, "RESULTS", results)
    monkeypatch.setattr(study_page, "PAGE", page)
    results.mkdir()
    (results / "training.csv").write_text("table,arm,seeds,temperature,attended_items\nother,context True,1,0.1,2\n")
    assert study.main(["small", "--tables-only"]) == 0
    captured = capsys.readouterr()
    assert "| context True | 2 | 50.0 | 55.0 | 25.0 | 0.08 | 3 |" in captured.out
    assert captured.err.count("is not evaluated yet") == 2  # the third seed
    names = {path.name for path in results.iterdir()}
    assert names == {"small.csv", "training.csv", "runs.csv", "gains.csv", "small-shots.svg"}
    training = [list(row.values()) for row in csv.DictReader((results / "training.csv").open())]
    assert ["small", "context True", "2", "0.08", "3"] in training and training[0][0] == "other"
    [row] = [r for r in csv.DictReader((results / "gains.csv").open()) if (r["method"], r["shots"]) == ("knn", "4")]
    assert (row["gain"], row["over_seeds"], row["low"], row["high"]) == ("0.05000", "0.12706", "0.03000", "0.07000")
    assert row["examples_ratio"] == "1.414"
    with pytest.raises(SystemExit, match="2"):
        study.main(["tiny", "--tables-only"])
    assert "no run of tiny is evaluated yet" in capsys.readouterr().err


def test_the_sweep_of_the_variants_runs_in_processes_that_know_their_settings(monkeypatch):
    commands = []

    class Done:
        returncode = 0

    monkeypatch.setattr(study.subprocess, "run", lambda command, **_: commands.append(command) or Done())
    assert study.run_variants(study.SWEEPS / "variants.py") == 0
    assert len(commands) == 6 * 3 and all(command[1:3] == ["-m", variant_objective.__name__] for command in commands)
    assert [command[3] for command in commands[:3]] == ["pretrain", "export", "evaluate"]
    assert study.run_sweep(study.SWEEPS / "drawings.py", max_parallel=2) == 0
    assert "--config.submit.max_parallel=2" in commands[-1] and "--dtype=float16" in commands[-1]


def mixtures(queries, keys, values, temperature):
    """Return softmax(queries keysᵀ / temperature, own entry masked) values of unit vectors, in float64."""
    x, y = (np.asarray(rows, np.float64) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, keys))
    logits = x @ y.T / temperature
    np.fill_diagonal(logits, -np.inf)
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True) @ values


def test_variants_attend_by_texts_and_to_earlier_batches(monkeypatch):
    monkeypatch.setattr(variant_objective, "_remembered", {})
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(4, 2, 5, 3)).astype(np.float32)
    temperature = jnp.log(0.1 / np.sqrt(3.0))
    variant = variant_objective.VariantObjective(neighbours="texts")
    by_texts = variant.contextualize(*batches[0], temperature, BlockLayout())
    u, v = batches[0]
    np.testing.assert_allclose(by_texts.embeddings, mixtures(v, v, u, 0.1), atol=1e-5)
    remembering = variant_objective.VariantObjective(memory=8)
    seen = np.zeros((0, 3))
    for u, v in batches:
        found = jax.jit(remembering.contextualize, static_argnums=3)(u, v, temperature, BlockLayout())
        keys = np.concatenate([u, seen[:8]])
        np.testing.assert_allclose(found.embeddings, mixtures(u, keys, keys, 0.1), atol=1e-5)
        seen = np.concatenate([u, seen])
    with pytest.raises(ValueError, match="memory 8 needs neighbours 'images', not 'texts'"):
        variant_objective.VariantObjective(memory=8, neighbours="texts")

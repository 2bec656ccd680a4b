"""The tables of docs/STUDY.md are those of the runs: pairs by seed, means over datasets, what differs named."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.study import arms as study_arms
from benchmarks.study import figures as study_figures
from benchmarks.study import tables as study
from benchmarks.study import variant_objective
from pretrain.losses.pairwise_blocks import Layout

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
    """Writes an evaluated run whose few-shot accuracy is `value(dataset, shots)`."""
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
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 9, "context_temperature": 0.02, "effective_items": 3}))
    (folder / "jobs.jsonl").write_text(json.dumps({"name": "pretrain", "seconds": 60}) + "\n")


@pytest.fixture
def arms(tmp_path):
    (tmp_path / "sweep.py").write_text(SWEEP)
    gains = {("few", 0): 0.02, ("many", 0): 0.06, ("few", 1): 0.04, ("many", 1): 0.08}
    for seed in (0, 1):
        write_run(tmp_path / f"seed={seed},context=False", lambda dataset, shots: 0.1 * np.log2(2 * shots))
        write_run(
            tmp_path / f"seed={seed},context=True",
            lambda dataset, shots, seed=seed: 0.1 * np.log2(2 * shots) + gains[dataset, seed],
        )
    return study_arms.read_arms(tmp_path / "sweep.py", tmp_path)


def test_gains_are_paired_by_seed_and_dataset(arms):
    plain, context = arms
    assert study_arms.find_plain(context, arms) is plain and study_arms.find_plain(plain, arms) is None
    found = study_arms.gain(plain, context, lambda scores, dataset: scores.few_shot(dataset, "knn", 4), list(DATASETS))
    assert found.mean == pytest.approx(0.05) and found.over_seeds == pytest.approx(12.706 * 0.01, rel=1e-3)
    assert (found.over_datasets.low, found.over_datasets.high) == pytest.approx((0.03, 0.07))
    assert str(found) == "+5.0 ± 12.7 [+3.0, +7.0]"


def test_the_summary_and_the_rows_hold_every_number(arms, tmp_path):
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


def test_the_figures_show_the_arms_and_are_pictures_by_themselves(arms, tmp_path):
    shown = study_figures.draw(arms, "small", tmp_path / "study")
    names = ["shots", "classes", "temperature", "attended"]
    assert [line.partition(' width="49%"')[0] for line in shown] == [f'<img src="study/small-{n}.svg"' for n in names]
    drawn = {name: (tmp_path / "study" / f"small-{name}.svg").read_text() for name in names}
    assert all(svg.startswith('<svg style="background:#fff') for svg in drawn.values())
    assert all(name in drawn["classes"] for name in DATASETS) and "knn, plain" in drawn["shots"]
    plain, _ = arms
    assert study_figures.draw([plain], "small", tmp_path / "study") == []


def test_many_arms_are_told_in_one_table_and_of_a_continued_run_the_seed_is_no_setting(tmp_path):
    (tmp_path / "sweep.py").write_text(MANY)
    for seed in (0, 1):
        for name in ("context=False", "context=True,alpha=0.5", "context=True,alpha=0.7", "context=True,alpha=0.9"):
            folder = tmp_path / f"seed={seed},initial_checkpoint=runs_seed={seed}_export,{name}"
            write_run(folder, lambda dataset, shots, name=name: 0.3 + 0.1 * ("True" in name))
    arms = study_arms.read_arms(tmp_path / "sweep.py", tmp_path)
    assert [(arm.name, len(arm.runs)) for arm in arms][:2] == [("context False", 2), ("context True, alpha 0.5", 2)]
    text = study.summarize(arms, "many")
    assert r"| context True, alpha 0.7 | +0.0 ± 0.0 \[+0.0, +0.0] | +10.0" in text and "| few |" not in text


def test_a_run_that_is_missing_is_told_and_left_out(arms, tmp_path, capsys):
    (tmp_path / "seed=1,context=True" / "evaluation" / "results.jsonl").unlink()
    [plain, context] = study_arms.read_arms(tmp_path / "sweep.py", tmp_path)
    assert list(plain.runs) == [0, 1] and list(context.runs) == [0]
    assert "seed=1,context=True was not evaluated yet" in capsys.readouterr().err


def test_the_summary_takes_its_place_in_the_page(tmp_path, monkeypatch):
    page = tmp_path / "STUDY.md"
    page.write_text("a\n<!-- small -->\nold\n<!-- end of small -->\nb\n")
    monkeypatch.setattr(study, "PAGE", page)
    study.put("new", "small")
    assert page.read_text() == "a\n<!-- small -->\nnew\n<!-- end of small -->\nb\n"


def mixtures(queries, keys, values, temperature):
    """Returns softmax(queries keysᵀ / temperature, own entry masked) values of unit vectors, in float64."""
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
    by_texts = variant_objective.VariantObjective(neighbours="texts").contextualize(*batches[0], temperature, Layout())
    u, v = batches[0]
    np.testing.assert_allclose(by_texts.embeddings, mixtures(v, v, u, 0.1), atol=1e-5)
    remembering = variant_objective.VariantObjective(memory=8)
    seen = np.zeros((0, 3))
    for u, v in batches:
        found = jax.jit(remembering.contextualize, static_argnums=3)(u, v, temperature, Layout())
        keys = np.concatenate([u, seen[:8]])
        np.testing.assert_allclose(found.embeddings, mixtures(u, keys, keys, 0.1), atol=1e-5)
        seen = np.concatenate([u, seen])
    with pytest.raises(ValueError, match="memory 8 needs neighbours 'images', not 'texts'"):
        variant_objective.VariantObjective(memory=8, neighbours="texts")

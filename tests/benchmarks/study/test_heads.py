"""Heads on CLIP's features: batches with N images per class, variants as in their formulas, resuming."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.study import head_runs as study_head_runs
from benchmarks.study import heads as study_heads
from benchmarks.study import page as study_page
from benchmarks.study.head_runs import DIM, HeadData, HeadObjective, LabelledFeatures, head_settings
from pretrain.losses.pairwise_blocks import BlockLayout

LABELS = np.repeat(np.arange(6), 7)


@pytest.mark.parametrize("together", [1, 2, 3, 7])
def test_batches_hold_n_images_per_class_side_by_side(together):
    rows = study_head_runs.batches(LABELS, 21 if together != 2 else 20, together=together, seed=0)
    drawn = np.stack(list(itertools.islice(rows, 50)))
    groups = LABELS[drawn].reshape(len(drawn), -1, min(together, drawn.shape[1]))
    assert together == 1 or (groups == groups[..., :1]).all()
    counts = np.bincount(drawn.ravel(), minlength=len(LABELS))
    assert counts.min() > 0.5 * counts.mean() and counts.max() < 1.6 * counts.mean()
    assert all(len(set(batch)) == len(batch) for batch in drawn[:1])


def test_memory_is_attended_to_as_in_the_formula_except_where_it_is_empty():
    rng = np.random.default_rng(0)
    u, memory = rng.normal(size=(5, DIM)), rng.normal(size=(4, DIM))
    remembered = np.concatenate([memory, np.zeros((3, DIM))])
    objective = HeadObjective(memory=7, remembered=jnp.asarray(remembered, jnp.float32))
    temperature = math.log(0.1 / math.sqrt(DIM))
    found = objective.contextualize(jnp.asarray(u, jnp.float32), None, jnp.asarray(temperature), BlockLayout())
    values = np.concatenate([u, memory])
    keys = values / np.linalg.norm(values, axis=1, keepdims=True)
    logits = keys[:5] @ keys.T / 0.1
    np.fill_diagonal(logits, -np.inf)
    attention = np.exp(logits - logits.max(axis=1, keepdims=True))
    attention /= attention.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.embeddings, attention @ values, rtol=2e-5, atol=2e-5)
    entropy = -np.sum(np.where(attention > 0, attention * np.log(np.maximum(attention, 1e-300)), 0), axis=1)
    np.testing.assert_allclose(found.effective_items, np.exp(entropy), rtol=1e-4)


def test_scheduled_temperature_moves_from_the_first_to_the_last():
    rng = np.random.default_rng(1)
    u = jnp.asarray(rng.normal(size=(6, DIM)), jnp.float32)
    learned = jnp.asarray(5.0)  # ignored
    for progress, temperature in ((0.0, 0.1), (0.5, math.sqrt(0.1 * 0.01)), (1.0, 0.01)):
        objective = HeadObjective(context_temperature=0.1, final_temperature=0.01, progress=jnp.asarray(progress))
        found = objective.contextualize(u, None, learned, BlockLayout())
        log = jnp.asarray(math.log(temperature / math.sqrt(DIM)))
        np.testing.assert_allclose(
            found.embeddings, HeadObjective().contextualize(u, None, log, BlockLayout()).embeddings, rtol=1e-3
        )


def test_same_class_attention_is_the_share_of_the_attention():
    u, labels = np.eye(4, DIM, dtype=np.float32), np.array([0, 0, 1, 2])
    assert study_head_runs.same_class_attention(u, labels, temperature=1.0, self_mask=True) == pytest.approx(
        (1 / 3 + 1 / 3 + 0 + 0) / 4
    )
    assert study_head_runs.same_class_attention(u, labels, temperature=1e-4, self_mask=False) == pytest.approx(1.0)


@pytest.mark.slow
def test_trials_are_kept_compared_with_their_plain_head_and_written(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(2)

    def features(classes, each):
        return LabelledFeatures(
            study_head_runs.unit(rng.normal(size=(classes * each, DIM))), np.repeat(np.arange(classes), each)
        )

    train, held = features(10, 7), features(5, 7)
    data = HeadData(
        train,
        study_head_runs.unit(rng.normal(size=(10, DIM))),
        held,
        {"caltech101": (features(3, 16), features(3, 2))},
    )
    chosen = [head_settings(7, batch_size=14, alpha=0.5), head_settings(memory=20, batch_size=14)]
    page = tmp_path / "STUDY.md"
    page.write_text("before\n<!-- heads -->\nold\n<!-- end of heads -->\nafter\n")
    monkeypatch.setattr(study_page, "PAGE", page)
    shown = study_page.HeadComparison("14, 7 per class", "α 0.5", "7", "14", "alpha=0.5")
    monkeypatch.setattr(study_page, "HEADS", (shown,))
    for name, value in {
        "STEPS": 30,
        "SEEDS": 2,
        "DRAWS": 1,
        "RESULTS": tmp_path,
        "TRIALS": tmp_path / "runs" / "heads.jsonl",
    }.items():
        for module in (study_head_runs, study_heads):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(study_heads, "tables", lambda: {"All": chosen})
    monkeypatch.setattr(study_heads, "open_data", lambda folder: data)
    (tmp_path / "features").mkdir()
    assert study_heads.main([f"--data={tmp_path}"]) == 0
    printed, text = capsys.readouterr().out, page.read_text()
    assert printed.startswith("`python -m benchmarks.study.heads`")
    assert "7 per class, batch 14, alpha 0.5 |" in printed and "shuffled, batch 14, memory 20 |" in printed
    assert text.startswith("before\n<!-- heads -->\n| batch |") and "old" not in text and text.endswith("after\n")
    assert "| 14, 7 per class | α 0.5 |" in text
    rows = (tmp_path / "heads.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * 2 * (1 + 9)  # two heads and their plain ones, two seeds
    assert "alpha 0.5" in (tmp_path / "heads-shares.svg").read_text()
    monkeypatch.setattr(study_heads, "train", None)  # nothing is trained again
    assert study_heads.main([f"--data={tmp_path}"]) == 0 and page.read_text() == text
    with pytest.raises(SystemExit, match="2"):
        study_heads.main([f"--data={tmp_path / 'nowhere'}"])
    assert "has no folder features/" in capsys.readouterr().err


def test_plain_step_is_that_of_the_base_loss_alone():
    """With alpha 1 the context has no weight: the gradient is the same up to rounding."""
    rng = np.random.default_rng(3)
    images, texts = (jnp.asarray(study_head_runs.unit(rng.normal(size=(8, DIM)))) for _ in range(2))
    heads = []
    for given in (head_settings().plain, head_settings(alpha=1.0)):
        step, start, state = study_head_runs.make_step(given.create(), 1e-3)
        for number in range(3):
            start, state, _ = step(start, state, images, texts, jnp.asarray(number, jnp.float32))
        heads.append(start["image"])
    np.testing.assert_allclose(*heads, atol=1e-5)
    assert not jax.numpy.allclose(heads[0], jnp.eye(DIM), atol=1e-5)

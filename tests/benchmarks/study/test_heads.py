"""The heads of docs/STUDY.md: batches with as many of a class as asked for, variants as in their formulas, resuming."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.study import head_runs as study_head_runs
from benchmarks.study import heads as study_heads
from benchmarks.study import tables as study
from benchmarks.study.head_runs import DIM, Data, Features, Trial, arm
from pretrain.losses.pairwise_blocks import Layout

LABELS = np.repeat(np.arange(6), 7)


@pytest.mark.parametrize("together", [1, 2, 3, 7])
def test_batches_have_so_many_of_a_class_side_by_side(together):
    rows = study_head_runs.batches(LABELS, 21 if together != 2 else 20, together, seed=0)
    drawn = np.stack(list(itertools.islice(rows, 50)))
    groups = LABELS[drawn].reshape(len(drawn), -1, min(together, drawn.shape[1]))
    assert together == 1 or (groups == groups[..., :1]).all()
    counts = np.bincount(drawn.ravel(), minlength=len(LABELS))
    assert counts.min() > 0.5 * counts.mean() and counts.max() < 1.6 * counts.mean()
    assert all(len(set(batch)) == len(batch) for batch in drawn[:1])


def test_a_memory_is_attended_to_as_the_formula_says_and_what_is_empty_is_not():
    rng = np.random.default_rng(0)
    u, memory = rng.normal(size=(5, DIM)), rng.normal(size=(4, DIM))
    remembered = np.concatenate([memory, np.zeros((3, DIM))])
    trial = Trial(memory=7, remembered=jnp.asarray(remembered, jnp.float32))
    temperature = math.log(0.1 / math.sqrt(DIM))
    found = trial.contextualize(jnp.asarray(u, jnp.float32), None, jnp.asarray(temperature), Layout())
    values = np.concatenate([u, memory])
    keys = values / np.linalg.norm(values, axis=1, keepdims=True)
    logits = keys[:5] @ keys.T / 0.1
    np.fill_diagonal(logits, -np.inf)
    attention = np.exp(logits - logits.max(axis=1, keepdims=True))
    attention /= attention.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.embeddings, attention @ values, rtol=2e-5, atol=2e-5)
    entropy = -np.sum(np.where(attention > 0, attention * np.log(np.maximum(attention, 1e-300)), 0), axis=1)
    np.testing.assert_allclose(found.effective_items, np.exp(entropy), rtol=1e-4)


def test_a_temperature_that_is_given_goes_from_the_first_to_the_last():
    rng = np.random.default_rng(1)
    u = jnp.asarray(rng.normal(size=(6, DIM)), jnp.float32)
    learned = jnp.asarray(5.0)  # is not looked at
    for progress, temperature in ((0.0, 0.1), (0.5, math.sqrt(0.1 * 0.01)), (1.0, 0.01)):
        trial = Trial(context_temperature=0.1, final_temperature=0.01, progress=jnp.asarray(progress))
        found = trial.contextualize(u, None, learned, Layout())
        log = jnp.asarray(math.log(temperature / math.sqrt(DIM)))
        np.testing.assert_allclose(
            found.embeddings, Trial().contextualize(u, None, log, Layout()).embeddings, rtol=1e-3
        )


def test_the_share_of_the_same_class_is_that_of_the_attention():
    u, labels = np.eye(4, DIM, dtype=np.float32), np.array([0, 0, 1, 2])
    assert study_head_runs.companions(u, labels, 1.0, True) == pytest.approx((1 / 3 + 1 / 3 + 0 + 0) / 4)
    assert study_head_runs.companions(u, labels, 1e-4, False) == pytest.approx(1.0)


def test_trials_are_kept_compared_with_their_plain_arm_and_written(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)

    def features(classes, each):
        return Features(
            study_head_runs.unit(rng.normal(size=(classes * each, DIM))), np.repeat(np.arange(classes), each)
        )

    train, held = features(10, 7), features(5, 7)
    data = Data(
        train,
        study_head_runs.unit(rng.normal(size=(10, DIM))),
        held,
        {"caltech101": (features(3, 16), features(3, 2))},
    )
    arms = [arm(7, 14, alpha=0.5), arm(memory=20, batch_size=14)]
    page = tmp_path / "STUDY.md"
    page.write_text("before\n<!-- heads -->\nold\n<!-- end of heads -->\nafter\n")
    monkeypatch.setattr(study, "PAGE", page)
    for name, value in {
        "STEPS": 30,
        "SEEDS": 2,
        "DRAWS": 1,
        "ROWS": tmp_path / "heads.csv",
        "SHARES": tmp_path / "shares.svg",
        "TRIALS": tmp_path / "runs" / "heads.jsonl",
    }.items():
        for module in (study_head_runs, study_heads):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(study_heads, "tables", lambda: {"All": arms})
    monkeypatch.setattr(study_heads, "open_data", lambda folder: data)
    (tmp_path / "features").mkdir()
    monkeypatch.setattr("sys.argv", ["study_heads.py", f"--data={tmp_path}"])
    assert study_heads.main() == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- heads -->\n`python") and "old" not in text and text.endswith("after\n")
    assert "7 together, batch 14, alpha 0.5 |" in text and "as they come, batch 14, memory 20 |" in text
    rows = (tmp_path / "heads.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * 2 * (1 + 9)  # two arms and their plain ones, two seeds
    assert "alpha 0.5" in (tmp_path / "shares.svg").read_text()
    monkeypatch.setattr(study_heads, "train", None)  # nothing is trained again
    assert study_heads.main() == 0 and page.read_text() == text


def test_the_plain_step_is_that_of_the_base_loss_alone():
    """With alpha 1 the context has no weight: the same gradient but for rounding."""
    rng = np.random.default_rng(3)
    images, texts = (jnp.asarray(study_head_runs.unit(rng.normal(size=(8, DIM)))) for _ in range(2))
    heads = []
    for given in (arm().plain, arm(alpha=1.0)):
        step, start, state = study_head_runs.make_step(given.create(), 1e-3)
        for number in range(3):
            start, state, _ = step(start, state, images, texts, jnp.asarray(number, jnp.float32))
        heads.append(start["image"])
    np.testing.assert_allclose(*heads, atol=1e-5)
    assert not jax.numpy.allclose(heads[0], jnp.eye(DIM), atol=1e-5)

"""What docs/STUDY.md says of attention and of near sets: shares of a known attention, gains of the right arm."""

import csv

import numpy as np
import pytest

from benchmarks.study import attention as study_attention
from benchmarks.study import near as study_near
from benchmarks.study.arms import Arm

CONTEXT, VIEWS = "pretrain.objective.context", "pretrain.data.views"


def test_the_share_of_attention_is_that_of_the_samples_whose_texts_are_alike():
    u = np.eye(4)
    points = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [np.sqrt(0.5), np.sqrt(0.5)]])
    attended, share, base = study_attention.shares(u, points, 1.0, True)  # of orthogonal pictures all are alike
    assert attended == pytest.approx(3.0)
    assert share == pytest.approx(base) == pytest.approx((2 + 2 + 1 + 3) / 12)  # cosine 0.71 counts
    attended, share, _ = study_attention.shares(u, points, 1e-3, False)  # each to itself
    assert (attended, share) == pytest.approx((1.0, 1.0))
    near = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    attended, share, base = study_attention.shares(near, np.eye(2)[[0, 0, 1, 1]], 0.05, True)
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
    rows = study_near.tell("t", arms, scores)
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

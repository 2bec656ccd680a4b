"""The benchmark of calibration: its measures on probabilities that are known, and a run at a tiny size."""

import numpy as np
import pytest

from benchmarks import calibration
from benchmarks.calibration import CalibrationDraw, averaged, cautious, fitted, summary


@pytest.fixture
def draw():
    rng = np.random.default_rng(0)
    labels, query_labels = np.repeat(np.arange(3), 8), rng.integers(0, 3, 100)
    left_out, logits = (rng.normal(size=(len(each), 3)) + 2 * np.eye(3)[each] for each in (labels, query_labels))
    return CalibrationDraw(left_out, labels, logits, query_labels)


def test_a_cautious_factor_and_an_average_are_less_confident_than_the_fitted_factor(draw):
    confidence = {rule: rule(draw).max(axis=1).mean() for rule in (fitted, cautious, averaged)}
    assert confidence[cautious] < confidence[averaged] < confidence[fitted]
    np.testing.assert_allclose(averaged(draw).sum(axis=1), 1)


def test_the_measures_of_known_probabilities(draw):
    labels = np.array([0, 0, 0, 1])
    known = np.array([[0.995, 0.005], [0.995, 0.005], [0.75, 0.25], [0.75, 0.25]])
    cells = summary([draw._replace(query_labels=labels)], lambda _: known).split(" | ")
    error = (2 * 0.005 + abs(2 * 0.75 - 1)) / 4
    loss = -(2 * np.log(0.995) + np.log(0.75) + np.log(0.25)) / 4
    assert cells == [f"{error:.3f}", f"{loss:.3f}", f"{0.8725 - 0.75:+.3f}", "50.0%", "100.0%"]


def test_it_prints_a_row_per_data_set_and_rule(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 8)
    parts = {part: rng.normal(size=(24, 6)) + np.eye(6)[labels] for part in ("support", "query")}
    (tmp_path / "tiny").mkdir()
    np.savez(tmp_path / "tiny" / "birds.npz", **parts, support_labels=labels, query_labels=labels)
    given = [f"--features={tmp_path / 'tiny'}", "--method=prototypes", "--shots=2", "--draws=2"]
    assert calibration.main(given) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| birds")]
    assert [line.split(" | ")[:2] for line in lines] == [["| birds", rule] for rule in calibration.RULES]

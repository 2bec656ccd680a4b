"""Numbers of the ranking, the averages and the confusions, by hand."""

import numpy as np
import pytest

from adapt.report.headline import headline
from adapt.report.results_index import ResultsIndex, TaskKey, average_interval, read_runs
from adapt.report.sections.learning_curves import _thin
from adapt.report.sections.predictions import _count_predictions, _most_confused, confusion
from adapt.report.sections.ranking import rank_runs, ranking
from adapt.report.statistics import accuracy_interval
from tests.adapt.report.artificial_runs import write_evaluation

ACCURACIES = {"a": 0.4, "b": 0.9, "c": 0.5, "d": 0.8, "e": 0.6, "f": 0.7, "g": 0.3}
SHARES = {name: {"zero_shot": 0.3, 1: share - 0.1, 4: share} for name, share in ACCURACIES.items()}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Seven runs whose accuracies differ by ten points."""
    return ResultsIndex(read_runs(write_evaluation(tmp_path_factory.mktemp("sweep"), shares=SHARES)))


def test_runs_are_ranked_by_their_average_and_the_heat_goes_from_lowest_to_highest(index):
    assert rank_runs(index, "knn") == list("bdfecag")
    [section] = [each for each in ranking(index) if each.method == "knn"]
    [table] = section.tables
    assert table.columns[:4] == ["run", "rank", "mean rank", "average"] and len(table.columns) == 6
    assert [row[0].text for row in table.rows] == list("bdfecag")
    assert [row[1].text for row in table.rows] == list("1234567")
    for column, key in enumerate(index.keys("few_shot"), start=4):
        means = [index.interval(run, key, method="knn", shots=4).mean for run in "bdfecag"]
        heats = [row[column].heat for row in table.rows]
        assert heats == pytest.approx([(mean - min(means)) / (max(means) - min(means)) for mean in means])
    places = (
        np.argsort(
            np.argsort(
                [
                    [-index.interval(run, key, method="knn", shots=4).mean for run in "bdfecag"]
                    for key in index.keys("few_shot")
                ]
            )
        )
        + 1
    )
    assert [row[2].text for row in table.rows] == [f"{place:.1f}" for place in places.mean(axis=0)]


def test_a_run_without_a_dataset_has_no_rank(index):
    runs = [
        run if run.name != "b" else run._replace(results=run.results[: len(run.results) // 2]) for run in index.runs
    ]
    index = ResultsIndex(runs)
    assert rank_runs(index, "knn") == list("dfecag")
    [section] = [each for each in ranking(index) if each.method == "knn"]
    assert [cell.text for cell in section.tables[0].rows[-1][:4]] == ["b", "–", "–", "–"]
    assert "Runs without one of the datasets have no rank." in section.text


def test_the_first_line_of_a_sweep_names_the_best_run_and_the_place_of_the_baseline(index):
    average = index.average("b", index.keys("few_shot"), method="knn")
    assert headline(index)[0].startswith(f"b is the best of 7 runs, with {100 * average.mean:.1f} (")
    assert "; a is number 6." in headline(index)[0]
    assert [sentence[:16] for sentence in headline(index)[1:4]] == [f"{run} is better than"[:16] for run in "bdf"]


def test_an_average_has_the_interval_of_the_mean_over_the_datasets_at_each_seed():
    rng = np.random.default_rng(0)
    values = rng.random((2, 6))
    groups = [
        [
            {
                "seed": seed,
                "value": value,
                "query_error": 0.01 * (group + 1),
                "queries": 50 + group,
                "method": "knn",
                "shots": 4,
            }
            for seed, value in enumerate(each)
        ]
        for group, each in enumerate(values)
    ]
    error = (0.01**2 + 0.02**2) ** 0.5 / 2
    assert average_interval(groups) == pytest.approx(
        accuracy_interval(list(values.mean(axis=0)), [error] * 6, queries=50)
    )
    alone = average_interval([groups[0], groups[1][:5]])
    assert alone.mean == pytest.approx((values[0].mean() + values[1][:5].mean()) / 2) and np.isnan(alone.low)


def test_the_confusion_matrix_is_that_of_the_dataset_that_the_best_run_classifies_worst(index):
    keys = index.keys("few_shot")
    means = [index.interval("b", key, method="knn", shots=4).mean for key in keys]
    worst = keys[int(np.argmin(means))]
    [section] = confusion(index)
    assert section.title == f"Most confused classes of the worst task: {worst.dataset}"
    [panel] = section.charts[0].panels
    found = index.predictions("b", index.rows("b", worst, method="knn", shots=4))
    for label in range(5):
        asked = found.labels == label
        expected = [float((found.predicted[:, asked] == other).mean()) for other in range(5)]
        assert panel.shares[label] == pytest.approx(expected)


def test_only_the_most_confused_classes_are_shown_each_next_to_its_partner():
    counts = np.diag(np.full(40, 9))
    counts[3, 20], counts[20, 3], counts[7, 8] = 5, 4, 6
    shown = _most_confused(counts)
    assert list(shown) == [3, 20, 7, 8]
    assert list(_most_confused(counts[:12, :12])) == list(range(12)) and not len(_most_confused(np.eye(13, dtype=int)))
    counts[np.arange(0, 38, 2), np.arange(1, 39, 2)] += 1
    assert len(_most_confused(counts)) == 12 == len(set(_most_confused(counts)))


def test_queries_that_do_not_count_are_not_counted(index):
    found = index.predictions("b", index.rows("b", TaskKey("birds"), method="knn", shots=4))
    predicted = found.predicted.copy()
    predicted[:, ::2] = -1
    assert _count_predictions(found._replace(predicted=predicted), 5).sum() == predicted.shape[0] * 100


def test_learning_curves_keep_at_most_two_hundred_points_and_the_last_one():
    assert len(_thin([(step, 0.0) for step in range(10_001)])) <= 201
    assert _thin([(step, 0.0) for step in range(10_001)])[-1][0] == 10_000
    assert [x for x, _ in _thin([(1, 0.0), (2, 0.0), (3, 0.0)])] == [1, 2, 3] and _thin([]) == []

"""Two checkpoints compared on artificial predictions: numbers by hand."""

import csv
import html

import numpy as np
import pytest

from adapt.report.headline import headline
from adapt.report.html_report import write_report
from adapt.report.notes import query_notes
from adapt.report.results_index import ResultsIndex, TaskKey, read_runs
from adapt.report.statistics import mean_difference
from foundation.files.array_files import load_array, save_array
from tests.adapt.report.artificial_runs import DATASETS, SHARES, write_evaluation

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def page(folder):
    return write_report(read_runs(folder), folder, title="compared").read_text(encoding="utf-8")


def test_a_difference_is_that_of_the_paired_predictions(folder):
    index = ResultsIndex(read_runs(folder))
    for dataset in DATASETS:
        key = TaskKey(dataset)
        a, b = (index.interval(run, key, method="knn", shots=4).mean for run in ("first", "second"))
        gain = index.difference("first", "second", key=key, method="knn", shots=4)
        assert gain.mean == pytest.approx(b - a, abs=1e-12)
        assert gain.significant and gain.low < gain.mean < gain.high
        assert gain.high - gain.low < 0.12  # it would be 0.2 if unpaired
        assert index.difference("first", "second", key=key, method="zero_shot", shots=4).mean == 0


def test_rows_with_different_data_support_sets_or_queries_are_not_compared(folder):
    runs = read_runs(folder)
    for change in ({"dataset_fingerprint": "other"}, {"support": "other"}, {"queries": 99}):  # those of a pool
        other = runs[1]._replace(results=[row | change for row in runs[1].results])
        index = ResultsIndex([runs[0], other])
        assert index.difference("first", "second", key=TaskKey("birds"), method="knn", shots=4) is None
    (note,) = query_notes(index, TaskKey("birds"))
    assert "different numbers of queries per seed (first 200, second 99), so they are not compared" in note
    assert not query_notes(ResultsIndex(runs), TaskKey("birds"))


def test_a_difference_of_mean_per_class_accuracies_weighs_classes_by_the_queries_that_count(tmp_path):
    runs = read_runs(write_evaluation(tmp_path))
    labels = load_array(tmp_path / "evaluation/predictions/labels.npy")
    excluded = (labels == 0) & (np.cumsum(labels == 0) > 3)  # class 0 keeps three queries
    values = []
    for number, run in enumerate(runs):
        path = tmp_path / "evaluation/predictions" / f"{run.name}0knn.npy"
        predicted = np.where(excluded, -1, load_array(path))
        predicted[:, (labels == 0) & ~excluded] = 1 - number  # all wrong, then all right
        save_array(path, predicted)
        found = [predicted[case] == labels for case in range(1, len(predicted), 2)]  # at 4 shots
        values.append(np.mean([[right[(labels == c) & ~excluded].mean() for c in range(5)] for right in found]))
    runs = [run._replace(results=[row | {"metric": "mean_per_class_accuracy"} for row in run.results]) for run in runs]
    gain = ResultsIndex(runs).difference("first", "second", key=TaskKey("birds"), method="knn", shots=4)
    assert gain.mean == pytest.approx(values[1] - values[0], abs=1e-12)


def test_the_headline_states_which_run_is_better_by_how_much_and_with_which_interval(folder):
    index = ResultsIndex(read_runs(folder))
    keys = [TaskKey(name) for name in DATASETS]
    gains = [index.difference("first", "second", key=key, method="knn", shots=4).mean for key in keys]
    interval = mean_difference(gains)
    assert interval.low > 0
    means = {run: np.mean([index.interval(run, key, method="knn", shots=4).mean for key in keys]) for run in SHARES}
    ends = f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    assert headline(index)[0] == (
        f"second is better than first by {100 * np.mean(gains):.1f} percentage points on average over 2 datasets with "
        f"knn at the most shots: {100 * means['second']:.1f} % against {100 * means['first']:.1f} %. Chance hardly "
        f"explains it: the 95% confidence interval of the difference, {ends}, excludes zero. Single datasets: clearly "
        "better on 2, clearly worse on 0."
    )
    assert headline(index)[1].startswith("second and first do not differ clearly on average over 2 datasets in zero-")
    assert headline(index)[2].startswith("3 seeds at 1, 4 shots. All runs use the same support sets and query images;")


def test_old_tables_and_figures_are_removed_and_nothing_else(folder):
    for name, kept in (("tables/old.csv", False), ("figures/old.pdf", False), ("figures/metrics.jsonl", True)):
        (folder / "empty" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "empty" / name).write_text("")
        write_report([read_runs(folder)[0]._replace(results=[])], folder / "empty", title="nothing")
        assert (folder / "empty" / name).exists() == kept


def test_the_table_files_have_the_numbers_of_the_page(folder, page):
    shown = html.unescape(page)
    for path in (folder / "tables").glob("*.csv"):
        for line in list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]:
            assert all(f">{html.escape(cell, quote=False)}<" in page or cell in shown for cell in line if cell)
        assert path.with_suffix(".md").is_file() and path.with_suffix(".tex").is_file()
    assert {"gain_knn.csv", "summary.csv", "ranking_knn.csv"} <= {path.name for path in (folder / "tables").iterdir()}

"""Reports on results of several protocols: no table, curve, ranking or index mixes them."""

import csv
import json

import pytest

from adapt.evaluation.protocols.support_protocol import STANDARD, SupportProtocol
from adapt.report.card_results import card_results
from adapt.report.html_report import write_report
from adapt.report.results_index import ResultsIndex, TaskKey, read_all_runs, read_runs
from adapt.report.sections.labelling_budget import _ticks, labelling_budget
from adapt.report.sections.open_set import open_set
from adapt.report.support_protocols import index_by_protocol
from tests.adapt.report.artificial_runs import write_evaluation

ZIPF = SupportProtocol("zipf", 1.0, 0.2)
SHARES = {"one": {"zero_shot": 0.3, 1: 0.4, 4: 0.5}}
BETTER = {"one": {"zero_shot": 0.3, 1: 0.7, 4: 0.9}}


def change(folder, **fields):
    path = folder / "evaluation" / "results.jsonl"
    rows = [json.loads(line) | fields for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["examples_drawn"] = 5 * row["shots"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def runs(tmp_path):
    """An old workdir without the fields, and one with a long tail and wrong labels."""
    write_evaluation(tmp_path / "plain", shares=SHARES, datasets=("birds",))
    change(write_evaluation(tmp_path / "tail", shares=BETTER, datasets=("birds",)), **ZIPF.fields)
    return read_all_runs(tmp_path)


def test_an_index_refuses_rows_of_two_protocols_and_runs_of_one_name(runs):
    with pytest.raises(ValueError, match=r"2 protocols cannot be compared: balanced, zipf 1, 20% wrong labels\. Index"):
        ResultsIndex(runs)
    with pytest.raises(ValueError, match="two runs are called 'plain', so their rows would be averaged"):
        ResultsIndex([runs[0], runs[0]])
    indexes = index_by_protocol(runs)
    assert list(indexes) == [STANDARD, ZIPF]
    means = [
        each.interval(name, TaskKey("birds"), method="knn", shots=4).mean
        for each, name in zip(indexes.values(), ("plain", "tail"), strict=True)
    ]
    assert means[0] < 0.6 < 0.8 < means[1]


def test_every_table_heading_and_csv_row_says_the_protocol(runs, tmp_path):
    page = write_report(runs, tmp_path / "report", title="t").read_text(encoding="utf-8")
    assert '<h2 id="accuracy"' in page and "Accuracy (zipf 1, 20% wrong labels)" in page
    assert "Support sets are long-tailed: class frequencies fall as rank to the power of −1" in page
    assert "zipf 1, 20% wrong labels: birds: accuracy 9" in page and "Gain over" not in page and "Ranking" not in page
    tables = {path.stem: path.read_text() for path in (tmp_path / "report" / "tables").glob("*.csv")}
    assert {"summary", "summary_zipf1_noise0.2"} <= {name.replace("-", "_") for name in tables}
    for name, text in tables.items():
        assert not (",9" in text and "plain" in text), name
    rows = list(csv.DictReader((tmp_path / "report" / "report.csv").open(encoding="utf-8")))
    assert {(row["run"], row["support_balance"], row["label_noise"]) for row in rows} == {
        ("plain", "", ""),
        ("tail", "zipf", "0.2"),
    }


def test_checkpoints_of_one_name_in_two_folders_stay_apart(tmp_path):
    both = SHARES | {"two": SHARES["one"]}
    for name in "ab":
        write_evaluation(tmp_path / name, shares=both, datasets=("birds",))
    assert [run.name for run in read_all_runs(tmp_path)] == ["a/one", "a/two", "b/one", "b/two"]


def test_a_model_card_names_the_protocol(runs):
    lines = card_results(runs[1].results)
    assert lines and all(line.protocol.endswith("support: zipf 1, 20% wrong labels") for line in lines)


def test_accuracy_by_labelled_images_counts_the_images_of_all_classes(tmp_path):
    change(write_evaluation(tmp_path, shares=SHARES, datasets=("birds", "fish")))
    index = ResultsIndex(read_runs(tmp_path))
    [section] = labelling_budget(index)
    [table] = section.tables
    assert table.columns == ["dataset", "classes", "labelled images", "knn"]
    assert [[cell.text for cell in row[:3]] for row in table.rows] == [
        [name, "5", images] for name in ("birds", "fish") for images in ("5", "20")
    ]
    [chart] = section.charts
    assert [entry.label for entry in chart.legend] == ["birds", "fish"]
    for curve, name in zip(chart.panels[0].curves, ("birds", "fish"), strict=True):
        means = [100 * index.interval("one", TaskKey(name), method="knn", shots=shots).mean for shots in (1, 4)]
        assert curve.x == [5, 20] and curve.y == pytest.approx(means)
        assert curve.texts[1].startswith(f"{name}, 20 labelled images: ")
    assert _ticks([5, 20]) == [3, 10, 30] and _ticks([102, 30_000]) == [100, 300, 1000, 3000, 10_000, 30_000]


def test_results_without_numbers_of_images_have_no_budget(runs):
    assert labelling_budget(index_by_protocol(runs)[STANDARD]) == []


def test_open_set_shows_the_scores_of_each_method(tmp_path):
    write_evaluation(tmp_path, shares=SHARES, datasets=("birds",), methods=("knn",))
    path = tmp_path / "evaluation" / "results.jsonl"
    rows = [json.loads(line) | {"task": "open_set", "question": "known"} for line in path.read_text().splitlines()]
    scores = {"far flag": 0.8, "max probability": 0.7, "max logit": 0.6}
    for row in rows[:]:
        rows += [
            row
            | {
                "question": name,
                "metric": "auroc",
                "value": value,
                "query_error": 0.01,
                "flagged_known": 0.05,
                "flagged_unknown": 0.5,
            }
            for name, value in scores.items()
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [section] = open_set(ResultsIndex(read_runs(tmp_path)))
    [[method, _, *cells]] = [[cell.text for cell in row] for row in section.tables[0].rows]
    assert method == "knn" and [cell.split(" ")[0] for cell in cells] == ["80.0", "70.0", "60.0", "5.0", "50.0"]
    assert section.tables[0].title == "birds at 4 shots: accuracy, AUROC of three scores, and queries flagged as far, %"

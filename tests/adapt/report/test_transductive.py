"""Transductive methods are marked in every table and chart of a report, and never compared with inductive ones."""

import csv
import io

import pytest

from adapt.report.card_results import card_results
from adapt.report.headline import best_method, headline
from adapt.report.html_report import write_report
from adapt.report.results_index import ResultsIndex, read_runs
from tests.adapt.report.artificial_runs import write_evaluation

METHODS = ("zero_shot", "knn", "transclip", "ss_text_u")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    workdir = write_evaluation(tmp_path_factory.mktemp("mixed"), datasets=("birds", "cars"), methods=METHODS)
    rows = [row for run in read_runs(workdir) for row in run.results]
    for row in rows:  # the transductive methods are better than all others
        row["value"] = min(1.0, row["value"] + 0.2 * row["transductive"])
    runs = [run._replace(results=[row for row in rows if row["checkpoint"] == run.name]) for run in read_runs(workdir)]
    write_report(runs, workdir, title="mixed")
    return workdir, runs


def test_no_table_of_a_report_has_both_kinds_and_every_one_is_marked(written):
    folder, _ = written
    found = set()
    for path in sorted((folder / "tables").glob("*.csv")):
        text = path.read_text(encoding="utf-8")
        if path.stem.startswith(("costs", "jobs")):
            continue
        rows = list(csv.reader(io.StringIO(text)))
        cells = {cell for row in rows for cell in row}
        marked = {cell for cell in cells if "(transductive)" in cell}
        assert not cells & {"transclip", "ss_text_u"}, path
        assert not marked or not cells & {"zero_shot", "knn"}, path
        found |= marked
    figures = {path.name for path in (folder / "figures").glob("*.svg")}
    assert {"locality_birds.svg", "locality_birds_transductive.svg", "average_transductive.svg"} <= figures
    assert {"transclip (transductive)", "ss_text_u (transductive)"} <= found
    assert {path.stem for path in (folder / "tables").glob("summary*.csv")} == {"summary", "summary_transductive"}


def test_the_first_lines_and_the_best_method_leave_transductive_methods_out(written):
    _, runs = written
    index, together = ResultsIndex(runs), ResultsIndex(runs, transductive=True)
    assert best_method(index) == "knn" and index.methods() == ["zero_shot", "knn"]
    assert not any("transclip" in sentence for sentence in headline(index))
    assert together.methods() == ["transclip (transductive)", "ss_text_u (transductive)"]


def test_the_page_marks_them_and_says_that_they_are_not_comparable(written):
    folder, _ = written
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "transclip and ss_text_u: transductive, fitted on all queries at once" in page
    assert "Accuracy (transductive)" in page and "Ranking of the runs: transclip (transductive)" in page
    assert "transclip is transductive: it is fitted on the queries of one query set" in page
    assert "<option>transclip (transductive)</option>" in page


def test_the_rows_of_the_csv_and_the_lines_of_a_card_are_marked(written):
    folder, runs = written
    rows = list(csv.DictReader((folder / "report.csv").open(encoding="utf-8")))
    assert {row["transductive"] for row in rows if row["method"] == "transclip"} == {"True"}
    assert {row["transductive"] for row in rows if row["method"] == "knn"} == {"False"}
    results = [each.metric for each in card_results(runs[0].results)]
    assert "accuracy of transclip (transductive)" in results and "accuracy of knn" in results

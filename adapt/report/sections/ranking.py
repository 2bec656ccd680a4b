"""A ranking of the runs of a report, with a heat map of runs × datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapt.report.baselines import better_baselines
from adapt.report.formatting import format_interval
from adapt.report.results_index import ResultsIndex, TaskKey
from adapt.report.sections.section import Section
from adapt.report.statistics import AccuracyInterval
from adapt.report.tables import Cell, ReportTable


def rank_runs(index: ResultsIndex, method: str) -> list[str]:
    """Return the runs that have all datasets, those with the highest average accuracy at the most shots first."""
    keys = _keys(index)
    averages = {run.name: index.average(run.name, keys, method=method) for run in index.runs}
    complete = [run for run, average in averages.items() if average]
    return sorted(complete, key=lambda run: -averages[run].mean)


def ranking(index: ResultsIndex) -> list[Section]:
    """Return a table of runs × datasets for each method, the best run first."""
    return [section for method in index.methods() for section in _section(index, method)]


def _keys(index: ResultsIndex) -> list[TaskKey]:
    return [key for key in index.keys("few_shot") if index.shots(key)]


def _section(index: ResultsIndex, method: str) -> list[Section]:
    keys = _keys(index)
    found = {
        run.name: [index.interval(run.name, key, method=method, shots=index.shots(key)[-1]) for key in keys]
        for run in index.runs
    }
    found = {run: intervals for run, intervals in found.items() if any(intervals)}
    if len(found) < 2:
        return []
    ranked = rank_runs(index, method)
    order = [*ranked, *(run for run in found if run not in ranked)]
    heats = [_heats({run: found[run][column] for run in order}) for column in range(len(keys))]
    averages = {run: index.average(run, keys, method=method) for run in order}
    average_heats = _heats(averages)
    places = _mean_places(found, ranked)
    rows = []
    for run in order:
        cells = [
            Cell(format_interval(interval), heat=heat[run]) for interval, heat in zip(found[run], heats, strict=True)
        ]
        rank = f"{ranked.index(run) + 1}" if run in ranked else "–"
        average = [Cell(places.get(run, "–")), Cell(format_interval(averages[run]), heat=average_heats[run])]
        rows.append([Cell(run), Cell(rank), *(average if len(keys) > 1 else []), *cells])
    grey = _grey_rows(index, keys)
    head = ["run", "rank", *(["mean rank", "average"] if len(keys) > 1 else []), *(key.dataset for key in keys)]
    title = f"Ranking of the runs: {method}"
    text = (
        "Accuracy at the most shots of each dataset, the highest average first. The colour goes from the lowest to "
        "the highest accuracy of a column."
        + (" The mean rank is that over the datasets." if len(keys) > 1 else "")
        + (" Runs without one of the datasets have no rank." if len(ranked) < len(order) else "")
        + (" Grey: the better classifier on raw pixels and on an image tower with random weights." if grey else "")
    )
    table = ReportTable(f"ranking-{method}", f"accuracy with {method}, %", head, [*rows, *grey], totals=len(grey))
    return [Section(title, text, [table], method=method)]


def _heats(intervals: Mapping[str, AccuracyInterval | None]) -> dict[str, float | None]:
    """Return the place of each accuracy between the lowest, 0, and the highest, 1."""
    means = [each.mean for each in intervals.values() if each]
    low, high = min(means, default=0), max(means, default=0)
    return {
        run: None if interval is None else (interval.mean - low) / (high - low) if high > low else 0.5
        for run, interval in intervals.items()
    }


def _mean_places(found: Mapping[str, Sequence[AccuracyInterval | None]], ranked: Sequence[str]) -> dict[str, str]:
    """Return the mean over datasets of the rank of each run among `ranked`; equal accuracies share their mean rank."""
    columns = list(zip(*(found[run] for run in ranked), strict=True))
    places = {}
    for number, run in enumerate(ranked):
        ranks = [
            sum(each.mean > at[number].mean for each in at) + (sum(each.mean == at[number].mean for each in at) + 1) / 2
            for at in columns
        ]
        places[run] = f"{sum(ranks) / len(ranks):.1f}"
    return places


def _grey_rows(index: ResultsIndex, keys: Sequence[TaskKey]) -> list[list[Cell]]:
    """Return raw pixels and untrained towers of the first run as rows."""
    curves = [better_baselines(index, key, run=index.runs[0].name) for key in keys]
    by_name = [{label.partition(":")[0]: curve for label, curve in each.items()} for each in curves]
    rows = []
    for name in dict.fromkeys(label for each in by_name for label in each):
        intervals = [each[name].intervals[max(each[name].intervals)] if name in each else None for each in by_name]
        average = AccuracyInterval(sum(each.mean for each in intervals) / len(keys)) if all(intervals) else None
        between = ["", format_interval(average)] if len(keys) > 1 else []
        rows.append([Cell(text, "grey") for text in (name, "", *between, *map(format_interval, intervals))])
    return rows

"""The first lines of a report: which run or method is better, by how much, and how certain that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from adapt.report.baselines import baseline_sentences, missing_sentences
from adapt.report.formatting import count, format_difference, format_interval, run_suffix
from adapt.report.results_index import ResultsIndex, TaskKey, interval_of
from adapt.report.statistics import AccuracyInterval, Difference, mean_difference

_FIRST = 3  # datasets that the first lines name


def headline(index: ResultsIndex) -> list[str]:
    """Return a sentence per main result: comparisons if there are several runs, else the best methods."""
    sentences = _comparisons(index)
    if sentences:
        sentences.append(_shared_protocol(index))
    else:
        sentences = [sentence for run in index.runs for sentence in _best_methods(index, run.name)]
    sentences += baseline_sentences(index, datasets=_FIRST) + missing_sentences(index)
    for run in index.runs:
        sentences += [
            f"{row['dataset']}{run_suffix(index, run.name)}: {row['metric']} is "
            f"{format_interval(interval_of([row]))} % over {row['queries']:,} queries."
            for row in run.results
            if row["task"] == "retrieval" and row["k"] == 10
        ]
    return sentences


def best_method(index: ResultsIndex) -> str | None:
    """Return the method with the highest accuracy at the most shots, averaged over runs and datasets."""
    means: dict[str, list[float]] = {}
    for run in index.runs:
        for key in index.keys("few_shot"):
            for method, interval in _at_most_shots(index, run.name, key).items():
                means.setdefault(method, []).append(interval.mean)
    most = max(map(len, means.values()), default=0)
    complete = {method: sum(values) for method, values in means.items() if len(values) == most}
    return max(complete, key=complete.__getitem__) if complete else None


def _at_most_shots(index: ResultsIndex, run: str, key: TaskKey) -> dict[str, AccuracyInterval]:
    """Return the accuracy of each method at the most shots of a dataset."""
    shots = index.shots(key)
    if not shots:
        return {}
    intervals = {method: index.interval(run, key, method=method, shots=shots[-1]) for method in index.methods()}
    return {method: interval for method, interval in intervals.items() if interval is not None}


def _comparisons(index: ResultsIndex) -> list[str]:
    """Return a sentence for every other run against the first, with the best method and with zero-shot."""
    sentences = []
    first = index.runs[0].name
    methods = list(dict.fromkeys(filter(None, (best_method(index), "zero_shot"))))
    for other in index.runs[1:]:
        for method in methods:
            gains = []
            for key in index.keys("few_shot"):
                shots = index.shots(key)
                gain = index.difference(first, other.name, key=key, method=method, shots=shots[-1]) if shots else None
                if gain is not None:
                    gains.append(gain)
            if gains:
                sentences.append(_verdict(first, other.name, method, gains))
    return sentences


def _verdict(first: str, other: str, method: str, gains: Sequence[Difference]) -> str:
    mean = gains[0] if len(gains) == 1 else mean_difference([gain.mean for gain in gains])
    better = sum(gain.significant and gain.mean > 0 for gain in gains)
    worse = sum(gain.significant and gain.mean < 0 for gain in gains)
    what = "zero-shot" if method == "zero_shot" else f"{method} at the most shots"
    if math.isnan(mean.low) or not mean.significant:
        verdict = f"No significant difference between {other} and {first} in {what}"
    else:
        verdict = f"{other} is {'better' if mean.mean > 0 else 'worse'} than {first} in {what}"
    over = f"on average over {len(gains)} datasets" if len(gains) > 1 else "on one dataset"
    by_dataset = (
        f" It is significantly better on {count(better, 'dataset')} and significantly worse on {worse}: there, the "
        "interval excludes zero."
    )
    return (
        f"{verdict}: the difference in accuracy is {format_difference(mean)} percentage points {over}, with the 95% "
        f"confidence interval in brackets.{by_dataset if len(gains) > 1 else ''}"
    )


def _shared_protocol(index: ResultsIndex) -> str:
    rows = [row for run in index.runs for row in run.results if row["task"] == "few_shot" and row["shots"]]
    seeds, shots = {row["seed"] for row in rows}, sorted({row["shots"] for row in rows})
    return (
        f"{count(len(seeds), 'seed')} at {', '.join(map(str, shots))} shots. All runs use the same support sets and "
        "query images; hyper-parameters are selected on the support sets alone."
    )


class _Best(NamedTuple):
    dataset: str
    shots: int
    method: str
    interval: AccuracyInterval
    methods: int


def _best_methods(index: ResultsIndex, run: str) -> list[str]:
    """Return the best method at the most shots for the first datasets."""
    best = []
    for key in index.keys("few_shot"):
        found = _at_most_shots(index, run, key)
        if found:
            method = max(found, key=lambda name: found[name].mean)
            best.append(_Best(key.dataset, index.shots(key)[-1], method, found[method], len(found)))
    suffix = run_suffix(index, run)
    sentences = [
        f"{each.dataset}{suffix}: accuracy {format_interval(each.interval)} % at {count(each.shots, 'shot')} with "
        f"{each.method}, the best of {count(each.methods, 'method')}."
        for each in best[:_FIRST]
    ]
    if len(best) > _FIRST:
        sentences.append(f"{count(len(best) - _FIRST, 'more dataset')}{suffix} in the table below.")
    return sentences

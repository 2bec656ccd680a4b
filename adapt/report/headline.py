"""The first lines of a report: which run or method is better, by how much, and how certain that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from adapt.report.baselines import baseline_sentences, missing_sentences
from adapt.report.formatting import count, format_difference, format_ends, format_interval, run_suffix
from adapt.report.results_index import ResultsIndex, TaskKey, interval_of
from adapt.report.sections.ranking import rank_runs
from adapt.report.statistics import AccuracyInterval, mean_difference

_FIRST = 3  # datasets, or runs of many, that the first lines name
_COMPARED = 4  # runs up to which each is compared with the baseline


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


def transductive_sentences(index: ResultsIndex) -> list[str]:
    """Return a sentence on the transductive methods of an index, which has no others, or none without them."""
    if not index.methods():
        return []
    names = " and ".join(method.removesuffix(index.suffix) for method in index.methods())
    return [
        f"{names}: transductive, fitted on all queries at once without their labels. Not comparable with the methods "
        "that classify each query on its own, they are left out of these comparisons and have tables of their own."
    ]


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
    """Return a sentence for every other run against the first, with the best method and with zero-shot.

    Of many runs, only the best ones have a sentence, after one on the ranking.
    """
    best, first = best_method(index), index.runs[0].name
    others = [run.name for run in index.runs[1:]]
    sentences, methods = [], list(dict.fromkeys(filter(None, (best, "zero_shot"))))
    if len(others) > _COMPARED:
        ranked = rank_runs(index, best) if best else []
        sentences += _ranking(index, ranked, method=best)
        others = [run for run in ranked if run != first][:_FIRST] or others[:_FIRST]
        methods = methods[:1]
    for other in others:
        sentences += [verdict for method in methods if (verdict := _verdict(index, first, other, method=method))]
    return sentences


def _ranking(index: ResultsIndex, ranked: Sequence[str], *, method: str) -> list[str]:
    if not ranked:
        return []
    first, keys = index.runs[0].name, index.keys("few_shot")
    keys = [key for key in keys if index.shots(key)]
    average = index.average(ranked[0], keys, method=method)
    place = f"; {first} is number {ranked.index(first) + 1}" if first in ranked[1:] else ""
    over = f"over {count(len(keys), 'dataset')}" if len(keys) > 1 else f"on {keys[0].dataset}"
    return [
        f"{ranked[0]} is the best of {len(index.runs)} runs, with {format_interval(average)} % {over}, {method} at the "
        f"most shots{place}. The best of many runs is partly luck: the ranking below shows how close they are."
    ]


def _verdict(index: ResultsIndex, first: str, other: str, *, method: str) -> str | None:
    """Return which run is better, by how much and how sure that is, or None where they cannot be compared."""
    gains = {}
    for key in index.keys("few_shot"):
        shots = index.shots(key)
        gain = index.difference(first, other, key=key, method=method, shots=shots[-1]) if shots else None
        if gain is not None:
            gains[key] = gain
    if not gains:
        return None
    several, [key, *_] = len(gains) > 1, gains
    mean = mean_difference([gain.mean for gain in gains.values()]) if several else gains[key]
    before, after = (f"{100 * index.average(run, list(gains), method=method).mean:.1f} %" for run in (first, other))
    where = f"on average over {len(gains)} datasets" if several else f"on {key.dataset}"
    how = "in zero-shot" if method == "zero_shot" else f"with {method} at "
    how += "" if method == "zero_shot" else "the most shots" if several else count(index.shots(key)[-1], "shot")
    ends = f"the 95% confidence interval of the difference, {format_ends(mean)},"
    if math.isnan(mean.low):
        verdict = f"{other} and {first} cannot be distinguished {where} {how}: {after} against {before}. "
        verdict += f"The difference of {format_difference(mean)} points has no interval; more seeds would give one."
    elif mean.significant:
        verdict = f"{other} is {'better' if mean.mean > 0 else 'worse'} than {first} by {abs(100 * mean.mean):.1f} "
        verdict += f"percentage points {where} {how}: {after} against {before}. "
        verdict += f"Chance hardly explains it: {ends} excludes zero."
    else:
        difference = format_difference(mean._replace(low=math.nan))
        verdict = f"{other} and {first} do not differ clearly {where} {how}: {after} against {before}. "
        verdict += f"The difference of {difference} points may be chance: {ends} contains zero."
    if several:
        better = sum(gain.significant and gain.mean > 0 for gain in gains.values())
        worse = sum(gain.significant and gain.mean < 0 for gain in gains.values())
        verdict += f" Single datasets: clearly better on {better}, clearly worse on {worse}."
    return verdict


def _shared_protocol(index: ResultsIndex) -> str:
    rows = [row for run in index.runs for row in run.results if row["task"] == "few_shot" and row["shots"]]
    seeds, shots = {row["seed"] for row in rows}, sorted({row["shots"] for row in rows})
    return (
        f"{count(len(seeds), 'seed')} at {', '.join(map(str, shots))} shots. All runs use the same support sets and "
        f"query images; hyper-parameters are selected on the support sets alone. All runs are compared with "
        f"{index.runs[0].name}."
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

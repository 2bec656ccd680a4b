"""Results of an evaluation as lines of a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapt.evaluation.protocols.support_protocol import STANDARD
from adapt.report.baselines import baseline_curves
from adapt.report.formatting import format_interval
from adapt.report.results_index import ResultsIndex, Run, interval_of
from adapt.report.statistics import MIN_DRAWS
from models.checkpoints.model_card import MeasuredResult


def card_results(rows: Sequence[Mapping[str, Any]]) -> list[MeasuredResult]:
    """Return the lines of a model card: recall at 10, zero-shot, and every method at the most shots."""
    results = [
        MeasuredResult(
            row["dataset"],
            row["metric"],
            f"{format_interval(interval_of([row]))} %",
            f"among {row['classes']:,}, 95% interval",
        )
        for row in rows
        if row["task"] == "retrieval" and row["k"] == 10
    ]
    run = Run("", rows, {}, (), ())
    inductive = ResultsIndex([run])
    supports = _supports(inductive)
    results += _few_shot(inductive) + _few_shot(ResultsIndex([run], transductive=True))
    for key in inductive.keys("few_shot"):
        for curve in baseline_curves(inductive, key):
            most = max(curve.intervals)
            value = f"{format_interval(curve.intervals[most])} %"
            results.append(
                MeasuredResult(key.dataset, f"accuracy of {curve.label}", value, f"{most} shots{supports}, a baseline")
            )
    return results


def _few_shot(index: ResultsIndex) -> list[MeasuredResult]:
    results, supports = [], _supports(index)
    for key in index.keys("few_shot"):
        for method in index.methods():
            shots = 0 if method == "zero_shot" else (index.shots(key) or [0])[-1]
            interval = index.interval("", key, method=method, shots=shots)
            if interval is None:
                continue
            drawn = index.rows("", key, method=method, shots=shots)
            protocol = f"{drawn[0]['classes']} classes, {_draws(shots, len(drawn))}{supports}"
            results.append(
                MeasuredResult(key.dataset, f"accuracy of {method}", f"{format_interval(interval)} %", protocol)
            )
    return results


def _supports(index: ResultsIndex) -> str:
    """Return the protocol of the support sets, unless it is the standard one."""
    return "" if index.protocol == STANDARD else f", support: {index.protocol.title}"


def _draws(shots: int, seeds: int) -> str:
    if not shots:
        return "no support images, 95% interval"
    spread = "95% interval" if seeds >= MIN_DRAWS else "(lowest–highest)"
    return f"{shots} shots, {seeds} seeds, mean and {spread}" if seeds > 1 else f"{shots} shots, 1 seed"

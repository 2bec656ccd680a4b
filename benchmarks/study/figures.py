"""Figures of the study's sweeps, drawn with the charts of `launch.py report`."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence

import numpy as np

from adapt.report.charts import COLORS, Line, Points, line_chart, point_chart
from adapt.report.statistics import mean_interval
from benchmarks.study.arms import Arm, RunScores, find_plain, gain, number_of_classes
from foundation.files.atomic import write_text

DRAWN = ("prototypes", "knn", "tip_adapter")  # methods


def draw(arms: Sequence[Arm], table: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Write TABLE-FIGURE.svg files into a folder and return their paths.

    Two figures compare one arm with its arm without context, the pair with the most seeds (the last of several):
    accuracy by shots, and gain by number of classes. Two show every arm with context: temperature and attended items by
    pairs seen.
    """
    pairs = [(plain, arm) for arm in arms if (plain := find_plain(arm, arms)) and plain.runs.keys() & arm.runs.keys()]
    if not pairs:
        return []
    plain, arm = max(reversed(pairs), key=lambda pair: len(pair[0].runs.keys() & pair[1].runs.keys()))
    charts = {"shots": by_shots(plain, arm), "classes": by_classes(plain, arm)}
    root = math.sqrt(arm.settings["vision"]["width"])
    for name, metric, label, factor in (
        ("temperature", "context_temperature", "temperature · √d", root),
        ("attended", "effective_items", "attended items", 1.0),
    ):
        lines = [line for k, (_, each) in enumerate(pairs) if (line := by_step(each, metric, factor=factor, color=k))]
        if lines:
            charts[name] = line_chart(lines, x_label="thousand pairs", y_label=label)
    paths = {folder / f"{table}-{name}.svg": svg for name, svg in charts.items()}
    for path, svg in paths.items():
        write_text(path, framed(svg))
    return list(paths)


def framed(svg: str) -> str:
    """Return a chart as a file of its own: dark on white, whatever the page around it."""
    return svg.replace("<svg ", '<svg style="background:#fff;color:#222" ', 1) + "\n"


def by_shots(plain: Arm, arm: Arm) -> str:
    """Return a chart of the mean accuracy over datasets by shots, with bands over seeds from three seeds on."""
    lines = []
    for color, method in enumerate(drawn(arm)):
        for each, name in ((plain, "plain"), (arm, "context")):
            scores = [RunScores(run) for run in each.runs.values()]
            datasets, shots = scores[0].index.datasets(), scores[0].index.shots()
            means = [[np.mean([s.few_shot(d, method, k) for d in datasets]) for s in scores] for k in shots]
            intervals = [mean_interval(values) for values in means]
            band = [] if len(scores) < 3 else [(mean - half_width, mean + half_width) for mean, half_width in intervals]
            lines.append(
                Line(f"{method}, {name}", shots, [mean for mean, _ in intervals], band, color, style=int(each is plain))
            )
    return line_chart(lines, x_label="shots", y_label="accuracy", x_ticks=shots, percent=True)


def by_classes(plain: Arm, arm: Arm) -> str:
    """Return a chart of the gain on each dataset at the most shots, by its number of classes."""
    index = RunScores(next(iter(arm.runs.values()))).index
    datasets, most = sorted(index.datasets(), key=lambda name: number_of_classes(arm, name)), index.shots()[-1]
    groups = []
    for color, method in enumerate(drawn(arm)):
        gains = [gain(plain, arm, lambda s, d, m=method: s.few_shot(d, m, most), [name]) for name in datasets]
        x, y = [number_of_classes(arm, name) for name in datasets], [100 * each.mean for each in gains]
        groups.append(Points(method, x, y, datasets if color == 0 else [""] * len(datasets), color=color))
    labels = {"x_label": "number of classes", "y_label": f"gain at {most} shots, points"}
    return point_chart(groups, **labels, log_x=True, zero=True)


def drawn(arm: Arm) -> list[str]:
    """Return the methods that are drawn."""
    return [method for method in DRAWN if method in RunScores(next(iter(arm.runs.values()))).index.methods()]


def by_step(arm: Arm, metric: str, *, factor: float, color: int) -> Line | None:
    """Return a line of a logged metric, averaged over seeds, by pairs seen; None if a run did not log it."""
    curves = [
        [
            (line["step"] * arm.settings["batch_size"] / 1000, factor * line[metric])
            for line in run.metrics
            if metric in line
        ]
        for run in arm.runs.values()
    ]
    if not curves or not all(curves):
        return None
    length = min(map(len, curves))
    values = np.mean([[value for _, value in curve[:length]] for curve in curves], axis=0)
    pairs = [pairs for pairs, _ in curves[0][:length]]
    return Line(arm.name, pairs, values.tolist(), color=color, style=int(color >= len(COLORS)))

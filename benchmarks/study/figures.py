"""The figures of docs/STUDY.md, with the charts of `launch.py report`."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence

import numpy as np

from adapt.report.charts import COLORS, Line, Points, line_chart, point_chart
from adapt.report.statistics import mean_interval
from benchmarks.study.arms import Arm, Scores, find_plain, gain, number_of_classes

DRAWN = ("prototypes", "knn", "tip_adapter")  # methods


def draw(arms: Sequence[Arm], table: str, folder: pathlib.Path) -> list[str]:
    """Writes TABLE-FIGURE.svg into the folder for one arm and its plain one; returns the lines that show them.

    The pair is that of the most seeds, of several the last. There are accuracy by shots, gain by number of classes,
    and, of all arms with context, temperature and attended items by step.
    """
    pairs = [(plain, arm) for arm in arms if (plain := find_plain(arm, arms)) and plain.runs.keys() & arm.runs.keys()]
    if not pairs:
        return []
    plain, arm = max(reversed(pairs), key=lambda pair: len(pair[0].runs.keys() & pair[1].runs.keys()))
    charts = {
        "shots": ("accuracy by examples a class, means over datasets", by_shots(plain, arm)),
        "classes": ("gain at most shots by number of classes", by_classes(plain, arm)),
    }
    root = math.sqrt(arm.settings["vision"]["width"])
    for name, metric, factor in (("temperature", "context_temperature", root), ("attended", "effective_items", 1.0)):
        label = {"temperature": "temperature · √d", "attended": "attended items"}[name]
        lines = [line for k, (_, each) in enumerate(pairs) if (line := by_step(each, metric, factor, k))]
        if lines:
            svg = line_chart(lines, x_label="thousand pairs", y_label=label)
            charts[name] = (f"{label} by pairs seen", svg)
    shown = []
    for name, (what, svg) in charts.items():
        path = folder / f"{table}-{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(framed(svg), encoding="utf-8")
        shown.append(f'<img src="study/{path.name}" width="49%" alt="{arm.name or table}: {what}">')
    return shown


def framed(svg: str) -> str:
    """Returns a chart as a file of its own, dark on white whatever page shows it."""
    return svg.replace("<svg ", '<svg style="background:#fff;color:#222" ', 1) + "\n"


def by_shots(plain: Arm, arm: Arm) -> str:
    """Returns a chart of the mean accuracy over datasets against shots, with bands over seeds where there are three."""
    lines = []
    for color, method in enumerate(drawn(arm)):
        for each, name in ((plain, "plain"), (arm, "context")):
            scores = [Scores(run) for run in each.runs.values()]
            datasets, shots = scores[0].found.datasets(), scores[0].found.shots()
            means = [[np.mean([s.few_shot(d, method, k) for d in datasets]) for s in scores] for k in shots]
            found = [mean_interval(values) for values in means]
            band = [] if len(scores) < 3 else [half for _, half in found]
            lines.append(
                Line(f"{method}, {name}", shots, [mean for mean, _ in found], band, color, dashed=each is plain)
            )
    return line_chart(lines, x_label="examples a class", y_label="accuracy", x_ticks=shots, percent=True)


def by_classes(plain: Arm, arm: Arm) -> str:
    """Returns a chart of the gain on each dataset at the most shots, against its number of classes."""
    found = Scores(next(iter(arm.runs.values()))).found
    datasets, most = sorted(found.datasets(), key=lambda name: number_of_classes(arm, name)), found.shots()[-1]
    groups = []
    for color, method in enumerate(drawn(arm)):
        found = [gain(plain, arm, lambda s, d, m=method: s.few_shot(d, m, most), [name]) for name in datasets]
        x, y = [number_of_classes(arm, name) for name in datasets], [100 * each.mean for each in found]
        groups.append(Points(method, x, y, datasets if color == 0 else [""] * len(datasets), color=color))
    labels = {"x_label": "number of classes", "y_label": f"gain at {most} shots, points"}
    return point_chart(groups, **labels, log_x=True, zero=True)


def drawn(arm: Arm) -> list[str]:
    """Returns the methods that are drawn."""
    return [method for method in DRAWN if method in Scores(next(iter(arm.runs.values()))).found.methods()]


def by_step(arm: Arm, metric: str, factor: float, color: int) -> Line | None:
    """Returns a line of the mean over seeds of what was logged, against pairs; None where nothing was."""
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
    return Line(arm.name, pairs, values.tolist(), color=color, dashed=color >= len(COLORS))

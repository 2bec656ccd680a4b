"""The learning curves of a report: what training logged, by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from adapt.report.figures.chart import DASHES, INK, Chart, LegendEntry, Look, run_look
from adapt.report.figures.panels import Curve, LinePanel
from adapt.report.results_index import Run
from adapt.report.sections.section import Section

# heading, (metric, name) of each line, logarithmic axis
_GROUPS = (
    ("loss", (("loss", "loss"), ("context_loss", "context loss")), False),
    ("logit scale", (("logit_scale", "loss"), ("context_logit_scale", "context loss")), False),
    ("context temperature", (("context_temperature", "temperature"),), True),
    ("attended items", (("effective_items", "effective number"),), False),
    ("attention on companions", (("companion_attention", "share"),), False),
)
_POINTS = 200  # of a line, at most


def learning_curves(runs: Sequence[Run]) -> list[Section]:
    """Return a chart with a panel for each group of training metrics that any run logged, coloured by run."""
    panels, dashed, drawn = [], False, set()
    for name, members, log_y in _GROUPS:
        curves = []
        for number, run in enumerate(runs):
            for member, (metric, label) in enumerate(members):
                points = _thin([(line["step"], line[metric]) for line in run.metrics if metric in line])
                if points:
                    look = run_look(number)._replace(marker=None)
                    if member:
                        look, dashed = look._replace(dashes=DASHES[1]), True
                    texts = [f"{run.name}, step {x:,}: {label} {y:.4g}" for x, y in points]
                    curves.append(Curve(*zip(*points, strict=True), look, texts))
                    drawn.add(number)
        if curves:
            panels.append(LinePanel(name, curves, "step", "", log_y=log_y))
    if not panels:
        return []
    if len(panels) == 1:  # shown without its title
        panels = [dataclasses.replace(panels[0], y_label=panels[0].title)]
    legend = [LegendEntry(runs[number].name, run_look(number)._replace(marker=None)) for number in sorted(drawn)]
    legend += [LegendEntry("of the context loss", Look(INK, DASHES[1]))] if dashed else []
    return [Section("Learning curves", charts=[Chart("learning-curves", "Learning curves", panels, legend)])]


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `_POINTS` of the points and the last one."""
    every = max(1, -(-len(points) // _POINTS))
    return [*points[:-1:every], *points[-1:]]

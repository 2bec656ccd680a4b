"""One self-contained HTML page, and the tables behind it, from the files of training and evaluation."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

from adapt.report import detail_sections as details
from adapt.report import sections as parts
from adapt.report.charts import Line, line_chart
from adapt.report.formatting import format_interval
from adapt.report.headline import best_method, headline
from adapt.report.protocol import protocol
from adapt.report.results_index import ResultsIndex, Run, interval_of
from adapt.report.tables import ReportTable
from foundation.files.atomic import write_text
from foundation.files.csv_text import csv_text
from foundation.files.distinct_names import distinct_names
from foundation.html import render

CSV_FIELDS = (
    "run",
    "task",
    "dataset",
    "question",
    "method",
    "shots",
    "seed",
    "metric",
    "value",
    "query_error",
    "settings",
    "selection",
    "short",
    "logit_scale",
    "classes",
    "queries",
    "support",
    "checkpoint_fingerprint",
    "dataset_fingerprint",
)
TABLES = "tables"


def write_report(runs: Sequence[Run], folder: str | os.PathLike, *, title: str) -> pathlib.Path:
    """Write `report.html`, `report.csv` with all rows, and each table as CSV, Markdown and LaTeX to `folder/tables`.

    The first run is the baseline that all later ones are compared with. Returns the path of the page.
    """
    folder = pathlib.Path(folder)
    index = ResultsIndex(runs)
    sections = [
        *parts.summary(index),
        *(parts.comparison(index) if len(runs) > 1 else []),
        *parts.curves(index),
        *details.halves(index),
        *details.other_tasks(index),
        *details.locality(index),
        *details.worst_classes(index),
        *details.costs(index),
    ]
    page = render(
        pathlib.Path(__file__).with_name("report.html.j2"),
        title=title,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        headline=headline(index),
        datasets=index.datasets(),
        methods=index.methods(),
        chosen=best_method(index),
        runs=runs,
        sections=sections,
        retrieval=_retrieval_rows(runs),
        examples=_examples(runs),
        curves=_learning_curves(runs),
        protocol=protocol(index),
    )
    for old in (folder / TABLES).glob("*"):
        old.unlink()
    tables = [table for section in sections for table in section.tables]
    for name, table in zip(distinct_names([table.name for table in tables]), tables, strict=True):
        _write_table(folder / TABLES, name, table)
    write_text(folder / "report.csv", _rows_as_csv(runs))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _write_table(folder: pathlib.Path, name: str, table: ReportTable) -> None:
    for ending, text in (("csv", table.to_csv()), ("md", table.to_markdown()), ("tex", table.to_latex())):
        write_text(folder / f"{name}.{ending}", text)


def _rows_as_csv(runs: Sequence[Run]) -> str:
    rows = [
        {**row, "run": run.name, "settings": json.dumps(row["settings"], sort_keys=True)}
        for run in runs
        for row in run.results
    ]
    return csv_text(CSV_FIELDS, ([row.get(field, "") for field in CSV_FIELDS] for row in rows))


def _retrieval_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {
            "run": run.name,
            "dataset": row["dataset"],
            "metric": row["metric"],
            "value": format_interval(interval_of([row])),
            "chance": f"{min(1, row['k'] / row['classes']):.1%}",
            "queries": f"{row['queries']:,}",
        }
        for run in runs
        for row in run.results
        if row["task"] == "retrieval"
    ]


def _examples(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {"run": run.name, "dataset": dataset, "examples": examples}
        for run in runs
        for dataset, examples in run.examples.items()
    ]


def _learning_curves(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return a chart for each group of training metrics that any run logged."""
    groups = (
        ("Loss", (("loss", "loss"), ("context_loss", "context loss")), False),
        ("Logit scale", (("logit_scale", "base loss"), ("context_logit_scale", "context loss")), False),
        ("Context temperature", (("context_temperature", "temperature"),), True),
        ("Effective number of attended items", (("effective_items", "effective number"),), False),
        ("Attention on companions", (("companion_attention", "share of the attention"),), False),
    )
    curves = []
    for heading, members, log_y in groups:
        lines = []
        for number, run in enumerate(runs):
            for color, (metric, label) in enumerate(members):
                points = [(line["step"], line[metric]) for line in run.metrics if metric in line]
                if points:
                    name = f"{label}, {run.name}" if len(runs) > 1 else label
                    lines.append(Line(name, *zip(*points, strict=True), color=color, style=number))
        if lines:
            chart = line_chart(lines, x_label="step", y_label=heading.lower(), log_y=log_y)
            curves.append({"title": heading, "chart": chart})
    return curves

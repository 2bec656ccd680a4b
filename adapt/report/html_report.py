"""One self-contained HTML page, and the tables behind it, from the files of training and evaluation."""

from __future__ import annotations

import datetime
import json
import logging
import os
import pathlib
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapt.evaluation.protocols.support_protocol import STANDARD, SupportProtocol
from adapt.report.figures.chart import Chart
from adapt.report.figures.draw import panel_svg, swatch, write_figures
from adapt.report.headline import best_method, headline, transductive_sentences
from adapt.report.protocol import protocol
from adapt.report.results_index import ResultsIndex, Run
from adapt.report.sections import accuracy, predictions, tasks
from adapt.report.sections.gains import gains
from adapt.report.sections.labelling_budget import labelling_budget
from adapt.report.sections.learning_curves import learning_curves
from adapt.report.sections.open_set import open_set
from adapt.report.sections.ranking import ranking
from adapt.report.sections.section import Section
from adapt.report.support_protocols import index_by_protocol, label_sections
from adapt.report.tables import ReportTable
from foundation.files.atomic import write_text
from foundation.files.csv_text import csv_text
from foundation.files.distinct_names import distinct_names
from foundation.html import render
from foundation.suggestions import did_you_mean

logger = logging.getLogger(__name__)

CSV_FIELDS = (
    "run",
    "task",
    "dataset",
    "question",
    "method",
    "transductive",
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
    "support_balance",
    "zipf_exponent",
    "label_noise",
    "wrong_labels",
    "examples_drawn",
    "mean_per_class_accuracy",
    "flagged_known",
    "flagged_unknown",
)
TABLES, FIGURES = "tables", "figures"
LARGE_PAGE = 3_000_000  # bytes


def write_report(
    runs: Sequence[Run], folder: str | os.PathLike, *, title: str, baseline: str | None = None
) -> pathlib.Path:
    """Write `report.html`, `report.csv` with all rows, and all tables and figures as files of their own.

    `folder/tables` has each table as CSV, Markdown and LaTeX, `folder/figures` each chart as SVG and PDF. All runs are
    compared with the run named `baseline`, by default the first. Returns the path of the page; raises `ValueError` for
    a baseline that is none of the runs.
    """
    folder = pathlib.Path(folder)
    runs = _baseline_first(runs, baseline)
    indexes, together = index_by_protocol(runs), index_by_protocol(runs, transductive=True)
    sections = [
        *_few_shot_sections(indexes),
        *_few_shot_sections(together),
        *tasks.retrieval(runs),
        *learning_curves(runs),
        *tasks.costs(runs),
        *tasks.jobs(runs),
    ]
    tables = [table for section in sections for table in section.tables]
    charts = [chart for section in sections for chart in section.charts]
    page = _page(runs, indexes, together, sections, title=title)
    write_text(folder / "report.html", page)
    _note_size(folder / "report.html", len(page.encode()))
    write_text(folder / "report.csv", _rows_as_csv(runs))
    for name, endings in ((TABLES, (".csv", ".md", ".tex")), (FIGURES, (".svg", ".pdf"))):
        for old in (folder / name).glob("*"):
            if old.is_file() and old.suffix in endings:  # a run of a sweep may have the name of the folder
                old.unlink()
    for name, table in zip(distinct_names([table.name for table in tables]), tables, strict=True):
        _write_table(folder / TABLES, name, table)
    for name, chart in zip(distinct_names([chart.name for chart in charts]), charts, strict=True):
        write_figures(chart, folder / FIGURES, name=name)
    return folder / "report.html"


def _note_size(path: pathlib.Path, size: int) -> None:
    """Log how to get a smaller page if its `size`, in bytes, is above `LARGE_PAGE`."""
    if size > LARGE_PAGE:
        logger.info(
            f"note: {path} has {size / 1e6:.1f} MB, most of it one chart per dataset and method. For a page below "
            f"{LARGE_PAGE / 1e6:.0f} MB, evaluate fewer methods (--methods) or datasets, or report fewer runs"
        )


def _few_shot_sections(indexes: Mapping[SupportProtocol, ResultsIndex]) -> list[Section]:
    """Return the sections on the results of each protocol of support sets, of methods that are all of one kind."""
    return [
        section
        for protocol, index in indexes.items()
        for section in label_sections(_protocol_sections(index), protocol)
    ]


def _protocol_sections(index: ResultsIndex) -> list[Section]:
    return [
        *accuracy.summary(index),
        *ranking(index),
        *gains(index),
        *accuracy.curves(index),
        *labelling_budget(index),
        *tasks.halves(index),
        *open_set(index),
        *tasks.other_tasks(index),
        *predictions.locality(index),
        *([] if index.suffix else predictions.confusion(index)),
        *predictions.worst_classes(index),
    ]


def _baseline_first(runs: Sequence[Run], baseline: str | None) -> list[Run]:
    names = [run.name for run in runs]
    if baseline is None:
        return list(runs)
    if baseline not in names:
        raise ValueError(
            f"--baseline={baseline} is not a run of this report.{did_you_mean(baseline, names)} Known runs: "
            f"{', '.join(names)}."
        )
    return sorted(runs, key=lambda run: run.name != baseline)


def _page(
    runs: Sequence[Run],
    indexes: Mapping[SupportProtocol, ResultsIndex],
    together: Mapping[SupportProtocol, ResultsIndex],
    sections: Sequence[Section],
    *,
    title: str,
) -> str:
    first, every = next(iter(indexes.values())), [*indexes.values(), *together.values()]
    folder = pathlib.Path(__file__).parent
    anchors = iter(_anchors([section.title for section in sections]))
    return render(
        folder / "report.html.j2",
        title=title,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "report.js").read_text(encoding="utf-8"),
        headline=_first_lines(indexes, headline) + _first_lines(together, transductive_sentences),
        datasets=list(dict.fromkeys(name for index in every for name in index.datasets())),
        methods=list(dict.fromkeys(name for index in every for name in index.methods())),
        chosen=best_method(first),
        runs=runs,
        sections=[(next(anchors), section, _drawn(section.charts)) for section in sections],
        examples=_examples(runs),
        protocol=list(dict.fromkeys(sentence for index in indexes.values() for sentence in protocol(index))),
    )


def _first_lines(
    indexes: Mapping[SupportProtocol, ResultsIndex], sentences: Callable[[ResultsIndex], list[str]]
) -> list[str]:
    """Return sentences about each index, which name the protocol of its support sets unless it is the standard one."""
    return [
        f"{protocol.title}: {sentence}" if protocol != STANDARD else sentence
        for protocol, index in indexes.items()
        for sentence in sentences(index)
    ]


def _anchors(titles: Sequence[str]) -> list[str]:
    """Return a distinct id for each heading, of lower-case letters, digits and hyphens."""
    readable = [re.sub(r"[^\w]+", "-", title.lower()).strip("-") or "section" for title in titles]
    taken = {"protocol", "contents"}
    anchors = []
    for name in readable:
        number, anchor = 1, name
        while anchor in taken:
            number += 1
            anchor = f"{name}-{number}"
        taken.add(anchor)
        anchors.append(anchor)
    return anchors


def _drawn(charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """Return the panels of charts as SVG, with their titles and legends."""
    return [
        {
            "title": chart.title,
            "panels": [
                {"title": panel.title, "svg": panel_svg(panel, name=f"{chart.name} {number}"), "width": panel.width}
                for number, panel in enumerate(chart.panels)
            ],
            "legend": [{"label": entry.label, "swatch": swatch(entry.look)} for entry in chart.legend],
        }
        for chart in charts
    ]


def _write_table(folder: pathlib.Path, name: str, table: ReportTable) -> None:
    for ending, text in (("csv", table.to_csv()), ("md", table.to_markdown()), ("tex", table.to_latex())):
        write_text(folder / f"{name}.{ending}", text)


def _rows_as_csv(runs: Sequence[Run]) -> str:
    rows = [
        {"transductive": False, **row, "run": run.name, "settings": json.dumps(row["settings"], sort_keys=True)}
        for run in runs
        for row in run.results
    ]
    return csv_text(CSV_FIELDS, ([row.get(field, "") for field in CSV_FIELDS] for row in rows))


def _examples(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {"run": run.name, "dataset": dataset, "examples": examples}
        for run in runs
        for dataset, examples in run.examples.items()
    ]

"""One self-contained HTML page, and the CSV behind it, from what training and evaluation wrote."""

from __future__ import annotations

import csv
import datetime
import json
import math
import os
import pathlib
import platform
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adapt.charts import Line, line_chart
from adapt.pages import render
from adapt.results import read_lines, read_results
from adapt.retrieval_task import EXAMPLES
from adapt.statistics import Interval, mean_interval
from models.model_card import Result

CSV_FIELDS = (
    "run",
    "task",
    "dataset",
    "method",
    "shots",
    "seed",
    "metric",
    "value",
    "settings",
    "selection",
    "logit_scale",
    "classes",
    "queries",
    "checkpoint_fingerprint",
    "dataset_fingerprint",
)


class Run(NamedTuple):
    """One evaluated checkpoint: result rows, retrieval examples, training metrics, and `jobs` (name, seconds)."""

    name: str
    results: Sequence[Mapping[str, Any]]
    examples: Mapping[str, Sequence[Mapping[str, Any]]]
    metrics: Sequence[Mapping[str, float]]
    jobs: Sequence[Mapping[str, Any]]


class Row(NamedTuple):
    """A summary line: a label and one cell a column."""

    label: str
    cells: Sequence[str]
    best: Sequence[bool]


def read_run(name: str, workdir: str | os.PathLike) -> Run:
    """Reads what the jobs left in a workdir; raises `FileNotFoundError` where nothing was evaluated."""
    workdir = pathlib.Path(workdir)
    results = read_results(workdir / "evaluation")
    examples = {}
    for row in results:
        if row["task"] == "retrieval" and row["dataset"] not in examples:
            path = workdir / "evaluation" / EXAMPLES / f"{row['examples']}.json"
            examples[row["dataset"]] = json.loads(path.read_text(encoding="utf-8"))
    return Run(name, results, examples, read_lines(workdir / "metrics.jsonl"), read_lines(workdir / "jobs.jsonl"))


def write_report(runs: Sequence[Run], folder: str | os.PathLike, *, title: str) -> pathlib.Path:
    """Writes `report.html` and `report.csv` to `folder`; returns the page's path."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    datasets = list(dict.fromkeys(row["dataset"] for run in runs for row in run.results if row["task"] == "few_shot"))
    page = render(
        "report.html.j2",
        title=title,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        headline=_headline(runs, datasets),
        runs=runs,
        datasets=[_dataset_section(runs, name) for name in datasets],
        retrieval=_retrieval_rows(runs),
        examples=_examples(runs),
        curves=_curves(runs),
        protocol=_protocol(runs),
    )
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        partial = pathlib.Path(temporary)
        (partial / "report.html").write_text(page, encoding="utf-8")
        with open(partial / "report.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, CSV_FIELDS, extrasaction="ignore")
            writer.writeheader()
            for run in runs:
                for row in run.results:
                    writer.writerow({**row, "run": run.name, "settings": json.dumps(row["settings"], sort_keys=True)})
        for name in ("report.csv", "report.html"):
            os.replace(partial / name, folder / name)
    return folder / "report.html"


def card_results(rows: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Returns the lines of a model card: recall at 10, zero-shot, and every method at the most shots."""
    results = [
        Result(row["dataset"], row["metric"], f"{row['value']:.1%}", f"among {row['queries']:,}")
        for row in rows
        if row["task"] == "retrieval" and row["k"] == 10
    ]
    run = Run("", rows, {}, (), ())
    for dataset in dict.fromkeys(row["dataset"] for row in rows if row["task"] == "few_shot"):
        some = next(row for row in rows if row["dataset"] == dataset and row["task"] == "few_shot")
        for method, by_shots in _few_shot(run, dataset).items():
            shots, interval = max(by_shots.items())
            spread = "" if math.isnan(interval.half_width) else f" ± {interval.half_width:.1%}"
            draws = sum(row["dataset"] == dataset and row["method"] == method and row["shots"] == shots for row in rows)
            how = f"{shots} shots a class, {draws} draws, mean and 95 % interval" if draws > 1 else "1 draw"
            how = how if shots else "no examples"
            metric = f"accuracy of {method}"
            results.append(Result(dataset, metric, f"{interval.mean:.1%}{spread}", f"{some['classes']} classes, {how}"))
    return results


def _few_shot(run: Run, dataset: str) -> dict[str, dict[int, Interval]]:
    """Returns method → shots → interval over the draws."""
    values: dict[str, dict[int, list[float]]] = {}
    for row in run.results:
        if row["task"] == "few_shot" and row["dataset"] == dataset:
            values.setdefault(row["method"], {}).setdefault(row["shots"], []).append(row["value"])
    return {
        method: {shots: mean_interval(draws) for shots, draws in sorted(by_shots.items())}
        for method, by_shots in values.items()
    }


def _dataset_section(runs: Sequence[Run], dataset: str) -> dict[str, Any]:
    tables = [(run, _few_shot(run, dataset)) for run in runs]
    shots = sorted({shots for _, table in tables for by_shots in table.values() for shots in by_shots if shots}) or [1]
    lines, rows = [], []
    for number, (run, table) in enumerate(tables):
        for color, (method, by_shots) in enumerate(table.items()):
            label = f"{method}, {run.name}" if len(runs) > 1 else method
            at = {k: by_shots.get(k, by_shots.get(0)) for k in shots}
            if any(interval is None for interval in at.values()):
                at = {k: interval for k, interval in at.items() if interval is not None}
            lines.append(
                Line(
                    label,
                    list(at),
                    [interval.mean for interval in at.values()],
                    [0.0 if math.isnan(interval.half_width) else interval.half_width for interval in at.values()],
                    color,
                    dashed=number > 0,
                )
            )
            rows.append((label, [at.get(k) for k in shots]))
    best = [max(cells[column].mean for _, cells in rows if cells[column]) for column in range(len(shots))]
    first = next(row for run in runs for row in run.results if row["dataset"] == dataset and row["task"] == "few_shot")
    return {
        "name": dataset,
        "classes": first["classes"],
        "queries": first["queries"],
        "chance": 1 / first["classes"],
        "shots": shots,
        "rows": [
            Row(
                label,
                [_percent(cell) for cell in cells],
                [cell is not None and cell.mean == top for cell, top in zip(cells, best, strict=True)],
            )
            for label, cells in rows
        ],
        "chart": line_chart(lines, x_label="examples per class", y_label="accuracy", x_ticks=shots, percent=True),
    }


def _headline(runs: Sequence[Run], datasets: Sequence[str]) -> list[str]:
    """Returns one sentence a result that a reader looks for first."""
    sentences = []
    for run in runs:
        of = f" ({run.name})" if len(runs) > 1 else ""
        for dataset in datasets:
            table = _few_shot(run, dataset)
            most = max((shots for by_shots in table.values() for shots in by_shots), default=0)
            best = {method: by_shots[most] for method, by_shots in table.items() if most in by_shots}
            if most and best:
                method = max(best, key=lambda name: best[name].mean)
                plural = "s" if most > 1 else ""
                sentences.append(
                    f"{dataset}{of}: {_percent(best[method])} % right with {most} example{plural} a class "
                    f"({method}, the best of {len(best)} methods)."
                )
        sentences += [
            f"{row['dataset']}{of}: {row['metric']} {100 * row['value']:.1f} % of {row['queries']} pictures."
            for row in run.results
            if row["task"] == "retrieval" and row["k"] == 10
        ]
    return sentences


def _retrieval_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {
            "run": run.name,
            "dataset": row["dataset"],
            "metric": row["metric"],
            "value": f"{row['value']:.1%}",
            "chance": f"{min(1, row['k'] / row['queries']):.1%}",
            "queries": row["queries"],
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


def _curves(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Returns a chart for each group of metrics that any run logged."""
    groups = (
        ("Loss", (("loss", "loss"), ("context_loss", "context term")), False),
        ("Logit scales", (("logit_scale", "base"), ("context_logit_scale", "context")), False),
        ("Context temperature", (("context_temperature", "temperature"),), True),
        ("Items attended to", (("effective_items", "effective number"),), False),
    )
    curves = []
    for title, members, log_y in groups:
        lines = []
        for number, run in enumerate(runs):
            for color, (metric, label) in enumerate(members):
                points = [(line["step"], line[metric]) for line in run.metrics if metric in line]
                if points:
                    name = f"{label}, {run.name}" if len(runs) > 1 else label
                    lines.append(Line(name, *zip(*points, strict=True), color=color, dashed=number > 0))
        if lines:
            curves.append(
                {"title": title, "chart": line_chart(lines, x_label="step", y_label=title.lower(), log_y=log_y)}
            )
    return curves


def _protocol(runs: Sequence[Run]) -> list[str]:
    rows = [row for run in runs for row in run.results if row["task"] == "few_shot"]
    seeds, scales = {row["seed"] for row in rows}, sorted({row["logit_scale"] for row in rows})
    captions = {row["settings"]["caption"] for run in runs for row in run.results if row["task"] == "retrieval"}
    texts = {"first": "its first text, the name", "all": "all its texts, joined by commas"}
    few_shot = [
        f"Supports are drawn at random, {len(seeds)} times; the supports of one draw are nested, and all images of a "
        "class that are in none of them are the queries, the same for every method and number of shots.",
        "Settings of a method are chosen on the support alone, by leave-one-out accuracy; at one shot, where that is "
        "impossible, the defaults are used. No query takes part in any choice.",
        f"Text logits are scaled by {', '.join(f'{scale:g}' for scale in scales)}, whatever a checkpoint learned.",
        "Numbers are means over the draws ± Student's t interval at 95 %.",
    ]
    return (few_shot if rows else []) + [
        f"In retrieval an image is described by {texts[caption]}; only that image counts as right."
        for caption in sorted(captions)
    ]


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    if math.isnan(interval.half_width):
        return f"{100 * interval.mean:.1f}"
    return f"{100 * interval.mean:.1f} ± {100 * interval.half_width:.1f}"

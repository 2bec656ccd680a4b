"""One self-contained HTML page, and the tables behind it, from what training and evaluation wrote."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import os
import pathlib
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

from adapt.report import detail_sections as details
from adapt.report import sections as parts
from adapt.report.charts import Line, line_chart
from adapt.report.results_index import Findings, Run
from adapt.report.sections import percent, points_of
from adapt.report.statistics import Difference, mean_difference
from adapt.report.tables import Table
from foundation.atomic import write_text
from foundation.html import render
from models.checkpoints.model_card import Result

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
_FIRST = 3  # datasets that the first lines name
_CAPTIONS = {"first": "its first text", "all": "all its texts, joined by commas", "each": "each of its texts"}


def write_report(runs: Sequence[Run], folder: str | os.PathLike, *, title: str) -> pathlib.Path:
    """Writes `report.html`, `report.csv` with all rows, and each table as CSV, Markdown and LaTeX to `folder/tables`.

    With several runs the others are compared with the first. Returns the path of the page.
    """
    folder = pathlib.Path(folder)
    findings = Findings(runs)
    sections = [
        *parts.summary(findings),
        *(parts.comparison(findings) if len(runs) > 1 else []),
        *parts.curves(findings),
        *details.halves(findings),
        *details.elsewhere(findings),
        *details.locality(findings),
        *details.worst_classes(findings),
        *details.costs(findings),
    ]
    page = render(
        pathlib.Path(__file__).with_name("report.html.j2"),
        title=title,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        headline=headline(findings),
        datasets=findings.datasets(),
        methods=findings.methods(),
        chosen=_best_method(findings),
        runs=runs,
        sections=sections,
        retrieval=_retrieval_rows(runs),
        examples=_examples(runs),
        curves=_curves(runs),
        protocol=protocol(findings),
    )
    for old in (folder / TABLES).glob("*"):
        old.unlink()
    for table in (table for section in sections for table in section.tables):
        _write_table(folder / TABLES, table)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for run in runs:
        for row in run.results:
            writer.writerow({**row, "run": run.name, "settings": json.dumps(row["settings"], sort_keys=True)})
    write_text(folder / "report.csv", buffer.getvalue())
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _write_table(folder: pathlib.Path, table: Table) -> None:
    name = re.sub(r"[^\w.]+", "_", table.name)[:100]
    for ending, text in (("csv", table.to_csv()), ("md", table.to_markdown()), ("tex", table.to_latex())):
        write_text(folder / f"{name}.{ending}", text)


def headline(findings: Findings) -> list[str]:
    """Returns one sentence a result that a reader looks for first: which is better, by how much, how sure."""
    sentences = []
    first = findings.runs[0].name
    method = _best_method(findings)
    for other in findings.runs[1:]:
        for name in dict.fromkeys(filter(None, (method, "zero_shot"))):
            gains = []
            for question in findings.questions("few_shot"):
                shots = findings.shots(question)
                gain = findings.difference(first, other.name, question, name, shots[-1]) if shots else None
                if gain is not None:
                    gains.append(gain)
            if gains:
                sentences.append(_verdict(first, other.name, name, gains))
    if sentences:
        drawn = [row for run in findings.runs for row in run.results if row["task"] == "few_shot" and row["shots"]]
        seeds, shots = {row["seed"] for row in drawn}, sorted({row["shots"] for row in drawn})
        sentences.append(
            f"{len(seeds)} draws of {', '.join(map(str, shots))} examples a class; the same examples and test images "
            "for all; settings chosen on the examples alone."
        )
    else:
        sentences += [sentence for run in findings.runs for sentence in _best_of_datasets(findings, run.name)]
    for run in findings.runs:
        of = f" ({run.name})" if len(findings.runs) > 1 else ""
        sentences += [
            f"{row['dataset']}{of}: {row['metric']} {100 * row['value']:.1f} % of {row['queries']:,}."
            for row in run.results
            if row["task"] == "retrieval" and row["k"] == 10
        ]
    return sentences


def _best_of_datasets(findings: Findings, run: str) -> list[str]:
    """Returns for the first datasets the method that is best at the most shots."""
    of = f" ({run})" if len(findings.runs) > 1 else ""
    best = []
    for question in findings.questions("few_shot"):
        shots = findings.shots(question)
        if shots:
            found = {name: findings.interval(run, question, name, shots[-1]) for name in findings.methods()}
            there = {name: interval for name, interval in found.items() if interval}
            if there:
                name = max(there, key=lambda method: there[method].mean)
                best.append((question.dataset, shots[-1], name, there[name], len(there)))
    sentences = [
        f"{dataset}{of}: {percent(interval)} % right with {shots} example{'s' if shots > 1 else ''} a class "
        f"({name}, the best of {count} methods)."
        for dataset, shots, name, interval, count in best[:_FIRST]
    ]
    if len(best) > _FIRST:
        sentences.append(f"… and {len(best) - _FIRST} more datasets{of} in the table below.")
    return sentences


def _verdict(first: str, other: str, method: str, gains: Sequence[Difference]) -> str:
    mean = gains[0] if len(gains) == 1 else mean_difference([gain.mean for gain in gains])
    better = sum(gain.sure and gain.mean > 0 for gain in gains)
    worse = sum(gain.sure and gain.mean < 0 for gain in gains)
    what = "zero-shot" if method == "zero_shot" else f"{method} at the most examples"
    if math.isnan(mean.low) or not mean.sure:
        verdict = f"No clear difference between {other} and {first} in {what}"
    else:
        verdict = f"{other} is {'better' if mean.mean > 0 else 'worse'} than {first} in {what}"
    over = f"on average over {len(gains)} datasets" if len(gains) > 1 else "on one dataset"
    return (
        f"{verdict}: {other} has {points_of(mean)} percentage points of accuracy {over}, its 95 % interval in "
        f"brackets. Taken by themselves, {better} of the datasets are clearly better and {worse} clearly worse "
        "(interval without zero)."
    )


def _best_method(findings: Findings) -> str | None:
    """Returns the method that is best on average over runs and datasets at the most shots."""
    means: dict[str, list[float]] = {}
    for run in findings.runs:
        for question in findings.questions("few_shot"):
            for method in findings.methods():
                shots = findings.shots(question)
                interval = findings.interval(run.name, question, method, shots[-1]) if shots else None
                if interval is not None:
                    means.setdefault(method, []).append(interval.mean)
    most = max(map(len, means.values()), default=0)
    whole = {method: sum(values) for method, values in means.items() if len(values) == most}
    return max(whole, key=whole.__getitem__) if whole else None


def protocol(findings: Findings) -> list[str]:
    """Returns how it was measured, in words."""
    rows = [row for run in findings.runs for row in run.results if row["task"] not in ("retrieval", "zero_shot")]
    drawn = [row for row in rows if row["method"] != "zero_shot"]
    sentences = []
    if drawn:
        seeds, scales = {row["seed"] for row in drawn}, sorted({row["logit_scale"] for row in drawn})
        sentences = [
            f"Examples are drawn at random, {len(seeds)} times. Those of one draw are nested, the first k being the "
            "examples at k shots, or are CoOp's published draws where a set asks for them. Where a set has a split to "
            "ask about, all of it is asked; else what no draw of a seed holds, the same for every method and number "
            "of shots.",
            "Settings of a method are chosen on the examples alone: "
            + "; ".join(sorted({row["selection"] for row in drawn} - {"none"}))
            + ". No query takes part in any choice.",
            f"Text logits are scaled by {', '.join(f'{scale:g}' for scale in scales)}, whatever a checkpoint learned.",
            "Numbers are means over the draws ± Student's t interval at 95 %; differences of checkpoints are on the "
            "same draws and queries, with intervals of a paired bootstrap over both; averages over datasets have "
            "Student's interval over the datasets.",
        ]
    captions = {
        row["settings"]["caption"] for run in findings.runs for row in run.results if row["task"] == "retrieval"
    }
    sentences += [
        f"In retrieval an image is described by {_CAPTIONS[caption]}; a text finds its image, an image any text of it."
        for caption in sorted(captions)
    ]
    for run in findings.runs:
        found = {(row.get("checkpoint_path"), row["checkpoint_fingerprint"], row.get("dtype")) for row in run.results}
        for path, print_, dtype in sorted(found, key=str):
            where = f" at {path}" if path else ""
            computed = f", computed in {dtype}" if dtype else ""
            sentences.append(f"{run.name} is the checkpoint {print_}{where}{computed}.")
    return sentences


def card_results(rows: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Returns the lines of a model card: recall at 10, zero-shot, and every method at the most shots."""
    results = [
        Result(row["dataset"], row["metric"], f"{row['value']:.1%}", f"among {row['classes']:,}")
        for row in rows
        if row["task"] == "retrieval" and row["k"] == 10
    ]
    findings = Findings([Run("", rows, {}, (), ())])
    for question in findings.questions("few_shot"):
        for method in findings.methods():
            at = 0 if method == "zero_shot" else (findings.shots(question) or [0])[-1]
            found, interval = findings.rows("", question, method, at), findings.interval("", question, method, at)
            if interval is None:
                continue
            spread = "" if math.isnan(interval.half_width) else f" ± {interval.half_width:.1%}"
            draws = len(found)
            how = f"{at} shots a class, {draws} draws, mean and 95 % interval" if draws > 1 else f"{at} shots, 1 draw"
            how = how if at else "no examples"
            value = f"{interval.mean:.1%}{spread}"
            text = f"{found[0]['classes']} classes, {how}"
            results.append(Result(question.dataset, f"accuracy of {method}", value, text))
    return results


def _retrieval_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {
            "run": run.name,
            "dataset": row["dataset"],
            "metric": row["metric"],
            "value": f"{row['value']:.1%}",
            "chance": f"{min(1, row['k'] / row['classes']):.1%}",
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

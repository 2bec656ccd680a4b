"""The two tables of docs/results/study.md, made from the CSV files of docs/study.

    python -m benchmarks.study.page

Everything that the page leaves out is in those files.
"""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adapt.report.statistics import mean_interval
from benchmarks import page_tables
from benchmarks.study import gains
from benchmarks.study.arms import average
from benchmarks.study.files import PAGE, RESULTS, find_row, items_of, read_csv, write_csv
from benchmarks.study.markdown import markdown, points

Rows = Sequence[Mapping[str, str]]


class Comparison(NamedTuple):
    """A row of the first table: its text, and the table and arm whose gain it shows."""

    run: str
    context: str
    table: str
    arm: str


class HeadComparison(NamedTuple):
    """A row of the second table: its text, and the columns of heads.csv that name its arm."""

    batch: str
    context: str
    together: str
    batch_size: str
    objective: str


SCRATCH = (
    Comparison("large towers", "as published", "small", "context True"),
    Comparison("small towers", "as published", "tiny", "examples 100000, context True"),
    Comparison("small towers, 400,000 pairs", "as published", "tiny", "examples 400000, context True"),
    Comparison("small towers, CLIP's loss", "as published", "softmax", "context True"),
    Comparison("small towers", "α 0.5", "ablations", "context True, alpha 0.5"),
    Comparison("small towers", "temperature 0.03", "ablations", "context True, context_temperature 0.03"),
    Comparison(
        "small towers", "α 0.5, temperature 0.03", "ablations", "context True, alpha 0.5, context_temperature 0.03"
    ),
    Comparison(
        "small towers, batch 1,024", "as published", "ablations", "batch_size 1024, logit_bias -6.9, context True"
    ),
    Comparison(
        "small towers, two views per sample",
        "temperature 0.03",
        "episodes",
        "views 2, context True, context_temperature 0.03",
    ),
    Comparison(
        "small towers, two views per sample",
        "α 0.5, temperature 0.03",
        "episodes",
        "views 2, context True, alpha 0.5, context_temperature 0.03",
    ),
    Comparison(
        "small towers, 4 similar texts per group",
        "α 0.5, temperature 0.03",
        "episodes",
        "group_size 4, context True, alpha 0.5, context_temperature 0.03",
    ),
    Comparison("large towers, 16 similar texts per group", "as published", "neighbours", "group_size 16, context True"),
    Comparison(
        "small towers, memory of 2,560 images",
        "α 0.5, temperature 0.03",
        "variants",
        "group_size 1, context True, memory 2560, alpha 0.5",
    ),
    Comparison(
        "small towers, 4 similar texts per group",
        "by texts, α 0.5, temperature 0.03",
        "variants",
        "group_size 4, context True, neighbours texts, alpha 0.5",
    ),
    Comparison("small towers, post-training", "as published", "post_training", "context True"),
    Comparison(
        "small towers, post-training",
        "α 0.5, temperature 0.03",
        "post_training",
        "context True, alpha 0.5, context_temperature 0.03",
    ),
    Comparison("the published pair", "as published", "drawings", "context True"),
)
HEADS = (
    HeadComparison("64, shuffled", "α 0.5, 0.03", "1", "64", "alpha=0.5 context_temperature=0.03"),
    HeadComparison("256, shuffled", "α 0.9, 0.1", "1", "256", "alpha=0.9 context_temperature=0.1"),
    HeadComparison("256, shuffled", "α 0.5, 0.1", "1", "256", "alpha=0.5 context_temperature=0.1"),
    HeadComparison("256, shuffled", "α 0.5, 0.03", "1", "256", "alpha=0.5 context_temperature=0.03"),
    HeadComparison("1,024, shuffled", "α 0.5, 0.03", "1", "1024", "alpha=0.5 context_temperature=0.03"),
    HeadComparison("2,800 (all), one seed", "α 0.5, 0.03", "1", "2800", "alpha=0.5 context_temperature=0.03"),
    HeadComparison("256, 2 per class", "α 0.5, 0.03", "2", "256", "alpha=0.5 context_temperature=0.03"),
    HeadComparison("256, 4 per class", "α 0.5, 0.3", "4", "256", "alpha=0.5 context_temperature=0.3"),
    HeadComparison("256, 4 per class", "α 0.5, 0.1", "4", "256", "alpha=0.5 context_temperature=0.1"),
    HeadComparison("256, 4 per class", "α 0.5, 0.03", "4", "256", "alpha=0.5 context_temperature=0.03"),
    HeadComparison("256, 4 per class", "α 0, 0.03", "4", "256", "alpha=0.0 context_temperature=0.03"),
    HeadComparison("256, 7 per class", "α 0.5, 0.03", "7", "256", "alpha=0.5 context_temperature=0.03"),
    HeadComparison(
        "256, 4 per class, by texts", "α 0, 0.03", "4", "256", "alpha=0.0 context_temperature=0.03 neighbours=texts"
    ),
    HeadComparison(
        "256, shuffled, memory of 2,560", "α 0, 0.03", "1", "256", "memory=2560 alpha=0.0 context_temperature=0.03"
    ),
)
RATE = "0.001"  # learning rate of the heads that the page shows
CELLS = (("zero_shot", 0), ("prototypes", 16), ("tip_adapter", 16))
NEAR_CELLS = (("prototypes", 16), ("tip_adapter", 16))
HEAD_CELLS = (("zero_shot", 0), ("prototypes", 4), ("prototypes", 16), ("tip_adapter", 4), ("tip_adapter", 16))


def scratch_table(folder: pathlib.Path) -> list[str]:
    """Return the first table: gains of training from scratch, on the eleven sets and on unseen emoji."""
    gained, near, attention = (read_csv(folder / f"{name}.csv") for name in ("gains", "near", "attention"))
    columns = ["run", "context", "seeds", "attention to similar texts", "zero-shot", "prototypes", "Tip-Adapter"]
    columns += ["emoji: prototypes", "emoji: Tip-Adapter"]
    rows = []
    for each in SCRATCH:
        found = find_row(attention, table=each.table, arm=each.arm)
        cells = []
        for method, shots in CELLS:
            row = find_row(gained, table=each.table, arm=each.arm, method=method, shots=str(shots))
            if row is None:
                break
            cells.append(points(float(row["gain"]), float(row["over_seeds"])))
            seeds = row["seeds"]
        if len(cells) < len(CELLS):  # the table is not evaluated yet
            continue
        cells += [near_gain(near, each, method=method, shots=shots) for method, shots in NEAR_CELLS]
        share = "" if found is None else f"{float(found['similar_texts']):.0%}"
        rows.append([each.run, each.context, seeds, share, *cells])
    return markdown(columns, rows)


def near_gain(rows: Rows, compared: Comparison, *, method: str, shots: int) -> str:
    """Return the gain on the unseen artist's emoji; empty if the runs were not evaluated on them."""
    accuracies: dict[bool, dict[str, float]] = {True: {}, False: {}}
    plain = gains.plain_name(compared.arm)
    for row in rows:
        if (row["table"], row["dataset"], row["method"], row["shots"]) != (
            compared.table,
            "emoji",
            method,
            str(shots),
        ):
            continue
        for context, wanted in ((True, items_of(compared.arm)), (False, plain)):
            if items_of(row["arm"]) == wanted:
                accuracies[context][row["seed"]] = float(row["accuracy"])
    seeds = accuracies[True].keys() & accuracies[False].keys()
    if not seeds:
        return ""
    return points(*mean_interval([accuracies[True][seed] - accuracies[False][seed] for seed in sorted(seeds)]))


def heads_table(folder: pathlib.Path) -> list[str]:
    """Return the second table: gains of heads trained on CLIP's features."""
    columns = ["batch", "context: α, temperature", "attention to the same class", "zero-shot"]
    columns += ["prototypes, 4", "prototypes, 16", "Tip-Adapter, 4", "Tip-Adapter, 16"]
    arms: dict[tuple[str, str, str], list[Mapping[str, str]]] = {}
    for row in read_csv(folder / "heads.csv"):
        if row["rate"] == RATE:
            arms.setdefault((row["together"], row["batch_size"], row["objective"]), []).append(row)
    rows = []
    for each in HEADS:
        found = arms.get((each.together, each.batch_size, each.objective))
        plain = arms.get((each.together, each.batch_size, "context=False"))
        if not found or not plain:
            continue
        shares = [float(row["companions"]) for row in found if row["companions"]]
        share = f"{average(shares):.0%}" if shares else ""
        cells = [head_gain(plain, found, method=method, shots=shots) for method, shots in HEAD_CELLS]
        rows.append([each.batch, each.context, share, *cells])
    return markdown(columns, rows)


def head_gain(plain: Rows, context: Rows, *, method: str, shots: int) -> str:
    """Return the gain, paired by seed, of means over the datasets."""
    means = []
    for rows in (plain, context):
        by_seed: dict[str, list[float]] = {}
        for row in rows:
            if (row["method"], row["shots"]) == (method, str(shots)):
                by_seed.setdefault(row["seed"], []).append(float(row["accuracy"]))
        means.append({seed: average(values) for seed, values in by_seed.items()})
    differences = [means[1][seed] - means[0][seed] for seed in sorted(means[0].keys() & means[1].keys())]
    return points(*mean_interval(differences)) if differences else points(math.nan)


def put(text: str, table: str, *, page: pathlib.Path | None = None) -> None:
    """Replace a table in the page; see `benchmarks.page_tables`."""
    page_tables.put(text, table, page=page or PAGE)


def write(folder: pathlib.Path | None = None, *, page: pathlib.Path | None = None) -> None:
    """Write gains.csv and the tables of the page from the other CSV files in a folder."""
    folder = folder or RESULTS
    write_csv(folder / "gains.csv", gains.COLUMNS, gains.compute(folder))
    for name, needed, table in (
        ("scratch", ("near.csv", "attention.csv"), scratch_table),
        ("heads", ("heads.csv",), heads_table),
    ):
        if all((folder / file).exists() for file in needed):
            put("\n".join(table(folder)), name, page=page)


def main() -> int:
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Clicks that suggested pictures save a person who labels, and the estimate of the accuracy on the way.

    python -m benchmarks.labelling.clicks [--data=FOLDER] [--sets=trashnet,…] [--runs=5] [--clicks=300] [--figure=FILE]

A simulated person labels the first suggested picture, again and again, with its true class; a class exists from its
first label. The classifier is the nearest class mean on checkpoints/photos, or on the CLIP features of the sets clip_*.
Each run takes 80 % of the pictures. The first table has, per number of clicks t, the accuracy of a random order and
the clicks of other orders until that accuracy, divided by those of the random order, with a 95 % interval (bootstrap
over runs, paired). Mean curves over runs are made monotone (isotonic regression) before they are compared; "random
again", a second random order, shows what is left to chance. The second table compares
estimates of the accuracy on the pictures without label with the truth. FOLDER holds targets/ and features/; without it,
four included sets are used.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from adapt.photos.expected_accuracy import expect_accuracy
from adapt.report.charts import Line, line_chart
from benchmarks.labelling.sets import PUBLIC, LabelledSet, open_set
from benchmarks.labelling.simulation import GRID, MIXED, ORDERS, POOL_SHARE, Labelling, simulate
from benchmarks.machine import describe_machine
from benchmarks.study.figures import framed
from benchmarks.study.markdown import markdown, percent
from foundation.files.atomic import write_text

TIMES = (25, 50, 100, 200)
COMPARED_SHARE, MEASURED_SHARE = 0.4, 0.6  # of the pictures: the last t, and the last click
RESAMPLES = 1000
CHANCE = "random again"
Curves = Mapping[str, list[Labelling]]  # by order, one per run


class Ratio(NamedTuple):
    """Clicks divided by those of the random order, and the ends of its 95 % interval.

    An order that never reaches the accuracy counts with all its clicks: then `missed` is true, and the ratio too small.
    """

    value: float
    low: float
    high: float
    missed: bool

    def __str__(self) -> str:
        return f"{'≥ ' if self.missed else ''}{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and return 0, or name what is missing and return 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.labelling.clicks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="folder with targets/ and features/")
    parser.add_argument("--sets", default=",".join(PUBLIC), help="comma-separated; NAME:uneven for uneven classes")
    parser.add_argument("--runs", type=int, default=5, help="runs per set and order (default: 5)")
    parser.add_argument("--clicks", type=int, default=300, help="most clicks per run (default: 300)")
    parser.add_argument("--orders", default=";".join(ORDERS), help="separated by semicolons (default: all)")
    parser.add_argument("--figure", type=pathlib.Path, metavar="FILE", help="SVG with the curves of the first set")
    args = parser.parse_args(arguments)
    orders = args.orders.split(";")
    try:
        sets = {name: open_set(name, data=args.data) for name in args.sets.split(",")}
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{describe_machine()}; {args.runs} runs, at most {args.clicks} clicks\n")
    compared = [order for order in orders if order != "random"]
    columns = ["set", "pictures", "classes", "t", "random: accuracy, classes found", *compared]
    print("\n".join(markdown(columns, [])))
    all_curves = {}
    for name, found in sets.items():
        began = time.perf_counter()
        all_curves[name] = curves = run_orders(found, orders, runs=args.runs, clicks=args.clicks)
        print("\n".join(markdown(columns, table_rows(name, found, curves, compared))[2:]), flush=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    print()
    print("\n".join(markdown(*estimate_table(all_curves.values()))))
    if args.figure:
        write_text(args.figure, framed(draw(next(iter(all_curves.values())), orders)))
    return 0


def run_orders(found: LabelledSet, orders: Sequence[str], *, runs: int, clicks: int) -> Curves:
    """Return the simulated sessions of each order."""
    last = min(clicks, int(MEASURED_SHARE * POOL_SHARE * len(found.labels)))
    return {
        order: [simulate(found, order, run=run, clicks=last, estimate_at=TIMES) for run in range(runs)]
        for order in orders
    }


def table_rows(name: str, found: LabelledSet, curves: Curves, orders: Sequence[str]) -> list[list[str]]:
    """Return a row per number of clicks of the random order."""
    rows = []
    count = round(POOL_SHARE * len(found.labels))
    for t in times(found, curves):
        accuracy = np.mean([each.accuracy[t - 1] for each in curves["random"]])
        classes = np.mean([each.classes[t - 1] for each in curves["random"]])
        ratios = [str(ratio(curves["random"], curves[order], t)) for order in orders]
        rows.append(
            [name, f"{count:,}", str(found.num_classes), str(t), f"{percent(accuracy)}, {classes:.1f}", *ratios]
        )
    return rows


def times(found: LabelledSet, curves: Curves) -> list[int]:
    """Return the numbers of clicks at which orders are compared: few of the pictures are labelled then."""
    last = min(COMPARED_SHARE * POOL_SHARE * len(found.labels), len(curves["random"][0].accuracy) / 1.5)
    return [t for t in TIMES if t <= last]


def ratio(random: Sequence[Labelling], other: Sequence[Labelling], t: int) -> Ratio:
    """Return the clicks of an order until the accuracy of the random order after t clicks, from mean curves over runs.

    The interval is that of the bootstrap over runs, paired.
    """
    curves = np.array([[each.accuracy for each in sessions] for sessions in (random, other)])
    rng = np.random.default_rng(0)
    runs = curves.shape[1]
    value, missed = _ratio(curves.mean(axis=1), t)
    drawn = [_ratio(curves[:, rng.integers(runs, size=runs)].mean(axis=1), t)[0] for _ in range(RESAMPLES)]
    return Ratio(value, *np.quantile(drawn, (0.025, 0.975)), missed)


def _ratio(curves: np.ndarray, t: int) -> tuple[float, bool]:
    """Return the ratio of two curves `[2, clicks]`, and whether the second one never gets there."""
    first, second = (isotonic_regression(curve).x for curve in curves)
    wanted = first[t - 1] - 1e-9
    needed = clicks_until(second, wanted)
    return (needed or len(second)) / clicks_until(first, wanted), needed is None


def clicks_until(curve: np.ndarray, wanted: float) -> int | None:
    """Return the first number of clicks with an accuracy of at least `wanted`, None without one."""
    reached = np.flatnonzero(curve >= wanted)
    return int(reached[0]) + 1 if len(reached) else None


def estimate_table(all_curves: Sequence[Curves]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: how far estimates are from the truth, over all sets and runs."""
    found = collections.defaultdict(list)
    for curves in all_curves:
        for order, sessions in curves.items():
            for estimate in (each for session in sessions for each in session.estimates):
                if order in ("random", "chooser", MIXED):
                    found[order, estimate.kind, estimate.clicks].append(estimate)
    rows = []
    for (order, kind, clicks), estimates in sorted(found.items()):
        errors, covered, widths = [], [], []
        for estimate in estimates:
            share = estimate.correct / estimate.total
            interval = expect_accuracy(share, np.zeros(estimate.total, np.int64))
            errors.append(share - estimate.truth)
            covered.append(interval.low <= estimate.truth <= interval.high)
            widths.append((interval.high - interval.low) / 2)
        cells = [
            f"{100 * np.mean(errors):+.1f}",
            f"{100 * np.mean(np.abs(errors)):.1f}",
            percent(float(np.mean(covered))),
        ]
        rows.append([order, kind, str(clicks), str(len(estimates)), *cells, percent(float(np.mean(widths)))])
    columns = ["order", "estimate", "clicks", "sessions", "bias, points", "error, points", "interval covers, %"]
    return [*columns, "half-width, points"], rows


def draw(curves: Curves, orders: Sequence[str]) -> str:
    """Return a chart of the mean accuracy by clicks."""
    lines = []
    for number, order in enumerate(order for order in orders if order not in (CHANCE, MIXED, GRID)):
        means = np.mean([session.accuracy for session in curves[order]], axis=0)
        grey = 0 if order == "random" else None
        lines.append(Line(order, np.arange(1, len(means) + 1), means, color=number, grey=grey))
    return line_chart(lines, x_label="clicks", y_label="accuracy", percent=True)


if __name__ == "__main__":
    sys.exit(main())

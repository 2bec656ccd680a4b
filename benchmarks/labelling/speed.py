"""Time of a click without the browser, and of the choice of suggestions among many pictures.

python -m benchmarks.labelling.speed [--pictures=100000] [--dim=512] [--classes=100] [--clicks=50] [--labels=30,5000]

The first table is about sessions over 10,000 pictures of 512 dimensions in 10 clusters: a click writes the label, syncs
it to disk, refits, chooses the next pictures, and makes the answer to the page. CPU time counts both processors. The
second table is about the choice alone, among unit vectors drawn at random, the hardest case for the greedy search.
Pictures are added in batches of 256. After each of the clicks, 12 suggestions are asked for. The table also has the
first choice after pictures were added, after 1,000 pictures were labelled at once, and after the pool was drawn again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.labelling.chooser import POOL_SIZE, Chooser
from adapt.labelling.views import session_state
from benchmarks.labelling.random_session import open_random_session
from benchmarks.machine import describe_machine
from benchmarks.study.markdown import markdown

SUGGESTED, BATCH, MANY = 12, 256, 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelling.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000, help="number of pictures (default: 100000)")
    parser.add_argument("--dim", type=int, default=512, help="dimensions of the features (default: 512)")
    parser.add_argument("--classes", type=int, default=100, help="number of classes (default: 100)")
    parser.add_argument("--clicks", type=int, default=50, help="number of clicks (default: 50)")
    parser.add_argument("--labels", default="30,1000,5000", help="comma-separated numbers of labels before the clicks")
    parser.add_argument("--session", type=int, default=10_000, help="pictures of the sessions (default: 10000)")
    args = parser.parse_args(arguments)
    print(f"{describe_machine()}\n")
    rows = [click_row(args.session, int(labels), clicks=args.clicks) for labels in args.labels.split(",")]
    print("\n".join(markdown(["labels", "CPU ms, median", "ms, least", "ms, median", "undo, CPU ms"], rows)))
    rng = np.random.default_rng(0)
    features = normalize_numpy(rng.standard_normal((args.pictures, args.dim), np.float32))
    logits = rng.standard_normal((args.pictures, args.classes), np.float32)
    open_rows = np.ones(args.pictures, bool)
    nearest = np.full(args.pictures, -np.inf, np.float32)
    chooser, labelled = Chooser(), []

    def choose() -> float:
        began = time.perf_counter()
        labels = np.array(labelled, np.int64)
        found = chooser.choose(
            SUGGESTED, features=features, labelled=labels, nearest=nearest, logits=logits, open_rows=open_rows
        )
        seconds = time.perf_counter() - began
        label(found.rows[:1].tolist())
        return seconds

    def label(rows: Sequence[int]) -> None:
        labelled.extend(rows)
        for row in rows:
            np.maximum(nearest, features @ features[row], out=nearest)

    began = time.perf_counter()
    for start in range(0, args.pictures, BATCH):
        chooser.add(features[start : start + BATCH])
    added = time.perf_counter() - began
    seconds = {"first choice after pictures were added": [choose()]}
    seconds[f"choice after a click ({args.clicks} clicks)"] = [choose() for _ in range(args.clicks)]
    label(rng.permutation(args.pictures)[:MANY].tolist())
    seconds[f"choice after {MANY:,} labels at once"] = [choose()]
    open_rows[chooser.pool[: 1 + POOL_SIZE // 2]] = False
    seconds["choice for which the pool is drawn again"] = [choose()]
    print(f"\n{args.pictures:,} × {args.dim}, {args.classes} classes, {SUGGESTED} suggestions\n")
    rows = [["adding, per batch of 256 pictures", f"{1000 * added * BATCH / args.pictures:.0f}", ""]]
    rows += [
        [name, f"{1000 * statistics.median(found):.0f}", f"{1000 * max(found):.0f}"] for name, found in seconds.items()
    ]
    print("\n".join(markdown(["", "ms, median", "ms, largest"], rows)))
    return 0


def click_row(count: int, labels: int, *, clicks: int) -> list[str]:
    """Return the times of clicks in a session with a number of labels, and of taking one back."""
    with tempfile.TemporaryDirectory() as folder:
        session, names, _ = open_random_session(pathlib.Path(folder), count, labels=labels)

        def timed(action: Callable[[], object]) -> tuple[float, float]:
            began, cpu = time.perf_counter(), time.process_time()
            action()
            json.dumps(session_state(session, keep=session.numbers[session.suggestions.rows].tolist()))
            return 1000 * (time.perf_counter() - began), 1000 * (time.process_time() - cpu)

        def click() -> None:
            number = int(session.numbers[session.suggestions.rows[0]])
            session.label([number], names[number])

        click()
        seconds, cpu = zip(*(timed(click) for _ in range(clicks)), strict=True)
        undo = statistics.median(timed(session.undo)[1] for _ in range(min(clicks, 5)))
    times = statistics.median(cpu), min(seconds), statistics.median(seconds), undo
    return [f"{labels:,}", *(f"{each:.0f}" for each in times)]


if __name__ == "__main__":
    sys.exit(main())

"""What the context objective does where batches have neighbours: heads on CLIP's own features, for docs/STUDY.md.

    python benchmarks/study/heads.py --data=FOLDER       stopped and called again, it goes on

FOLDER/features has `imagenet_a.npz`, `caltech101.npz` and `oxford_flowers.npz`, features of OpenAI's CLIP ViT-B/32.
A linear map of image features and one of text features, both the identity at first, are trained on seven pictures of
each of 400 ImageNet classes and the classes' names. Then: zero-shot on 100 other ImageNet classes, and few-shot on
Caltech-101 and flowers. Rows go to docs/study/heads.csv, the summary into docs/STUDY.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import itertools
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from adapt.report.charts import Points, point_chart  # noqa: E402
from adapt.report.statistics import mean_interval  # noqa: E402
from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.study.figures import framed  # noqa: E402
from benchmarks.study.head_runs import (  # noqa: E402
    DIM,
    METHODS,
    RATE,
    SEEDS,
    SHOTS,
    STEPS,
    WHOLE,
    Arm,
    Data,
    arm,
    open_data,
    score,
    train,
)
from benchmarks.study.tables import markdown, put  # noqa: E402

ROWS, TRIALS = ROOT / "docs" / "study" / "heads.csv", ROOT / "runs" / "study" / "heads.jsonl"
SHARES = ROOT / "docs" / "study" / "heads-shares.svg"


def tables() -> dict[str, list[Arm]]:
    """Returns the arms with context of each table; every one is compared with its plain arm."""
    best = {"alpha": 0.5, "context_temperature": 0.03}
    return {
        "Neighbours, weight and initial temperature": [
            arm(together, alpha=alpha, context_temperature=temperature)
            for together in (1, 2, 4, 7)
            for alpha, temperature in ((0.9, 0.1), (0.9, 0.03), (0.5, 0.1), (0.5, 0.03), (0.0, 0.03))
        ],
        "One change at a time, from four together, alpha 0.5, temperature 0.03": [
            arm(4, **best, **change)
            for change in (
                {},
                {"self_mask": False},
                {"stop_gradient": ("values",)},
                {"stop_gradient": ("keys",)},
                {"shared_logit_scale": True},
                {"normalized_values": True},
                {"base": "softmax"},
            )
        ]
        + [arm(4, alpha=0.5, context_temperature=temperature) for temperature in (0.01, 0.3)],
        "What the paper does not have": [
            arm(4, **best, neighbours="texts"),
            arm(4, alpha=0.0, context_temperature=0.03, neighbours="texts"),
            arm(**best, neighbours="texts"),
            arm(memory=2560, **best),
            arm(memory=2560, alpha=0.9, context_temperature=0.03),
            arm(memory=2560, alpha=0.0, context_temperature=0.03),
            arm(4, memory=2560, alpha=0.0, context_temperature=0.03),
            arm(4, alpha=0.5, context_temperature=0.1, final_temperature=0.01),
            arm(alpha=0.5, context_temperature=0.1, final_temperature=0.01),
        ],
        "At a third of the learning rate": [
            arm(alpha=0.0, context_temperature=0.03, rate=RATE * 0.3),
            arm(4, alpha=0.5, context_temperature=0.03, rate=RATE * 0.3),
            arm(4, alpha=0.0, context_temperature=0.03, rate=RATE * 0.3),
            arm(4, alpha=0.0, context_temperature=0.03, neighbours="texts", rate=RATE * 0.3),
            arm(memory=2560, alpha=0.0, context_temperature=0.03, rate=RATE * 0.3),
        ],
        "Batch size, pictures as they come": [
            arm(batch_size=batch_size, **best) for batch_size in (64, 256, 1024, WHOLE)
        ],
    }


class Found(NamedTuple):
    """What one run of an arm scored and logged, and how long it took."""

    scores: dict[tuple[str, str, int], float]
    last: dict[str, float]
    seconds: float


Trials = Mapping[tuple[Arm, int], Found]


def run(arms: Sequence[Arm], data: Data) -> Trials:
    """Trains and scores every arm with every seed but those that are in the file of trials, and adds them there."""
    kept = {}
    if TRIALS.is_file():
        for line in TRIALS.read_text(encoding="utf-8").splitlines():
            name, seed, scores, last, seconds = json.loads(line)
            kept[name, seed] = Found({(d, m, k): value for d, m, k, value in scores}, last, seconds)
    TRIALS.parent.mkdir(parents=True, exist_ok=True)
    trials = {}
    for given, seed in tqdm([(each, seed) for each in arms for seed in each.seeds], desc="heads"):
        name = f"{name_of(given)}, rate {given.rate}"
        if (name, seed) not in kept:
            began = time.monotonic()
            heads, last = train(given, data, seed)
            scores = score(heads, data)
            kept[name, seed] = Found(scores, last, time.monotonic() - began)
            line = [name, seed, [[*what, value] for what, value in scores.items()], last, kept[name, seed].seconds]
            with open(TRIALS, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        trials[given, seed] = kept[name, seed]
    return trials


def summarize(trials: Trials, before: Mapping) -> str:
    """Returns the text of the page: what CLIP scores by itself, the plain arms, and what context adds to each."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax"))
    day = datetime.date.fromtimestamp(TRIALS.stat().st_mtime)
    seconds = sum(trial.seconds for trial in trials.values())
    lines = [
        f"`python benchmarks/study/heads.py`, {day.isoformat()}, {describe_machine()}, {versions}; "
        f"{len(trials)} runs of {STEPS} steps, {SEEDS} seeds an arm (one with the whole set as a batch), "
        f"{seconds / 60:.0f} minutes in all",
    ]
    heads = ["without context", "zero-shot", *(f"{method}, {shots}" for method in METHODS for shots in SHOTS)]
    rows = [["CLIP itself", *(f"{100 * mean_of(before, *what):.1f}" for what in columns())]]
    for given in dict.fromkeys(each for each, _ in trials):
        if given == given.plain:
            scores = [trials[given, seed].scores for seed in given.seeds]
            means = [np.mean([mean_of(each, *what) for each in scores]) for what in columns()]
            rows.append([name_of(given), *(f"{100 * mean:.1f}" for mean in means)])
    lines += ["", *markdown(heads, rows)]
    heads = ["gain, points", "zero-shot", *(f"{method}, {shots}" for method in METHODS for shots in SHOTS)]
    heads += ["temperature · √d", "attended", "of the same class"]
    for title, arms in tables().items():
        rows = []
        for given in arms:
            cells = [name_of(given)]
            for what in columns():
                gains = [
                    mean_of(trials[given, seed].scores, *what) - mean_of(trials[given.plain, seed].scores, *what)
                    for seed in given.seeds
                ]
                mean, half = mean_interval(gains)
                cells.append(f"{100 * mean:+.1f}" + ("" if math.isnan(half) else f" ± {100 * half:.1f}"))
            last = {
                key: np.mean([trials[given, seed].last.get(key, math.nan) for seed in given.seeds]) for key in LOGGED
            }
            temperature, attended, same = (last[key] for key in LOGGED)
            cells += [
                f"{temperature * np.sqrt(DIM):.3f}",
                f"{attended:.1f}",
                "" if math.isnan(same) else f"{100 * same:.0f} %",
            ]
            rows.append(cells)
        lines += ["", f"**{title}**", "", *markdown(heads, rows)]
    return "\n".join(lines)


def draw_shares(trials: Trials, path: pathlib.Path) -> None:
    """Draws what context brings on average over methods and shots against where its attention goes."""
    groups: dict[float, list[tuple[float, float, float]]] = {}
    for given in dict.fromkeys(each for each, _ in trials):
        shares = [trials[given, seed].last.get("companions", math.nan) for seed in given.seeds]
        if given == given.plain or math.isnan(shares[0]):
            continue
        gains = [
            np.mean([mean_of(scores, *what) - mean_of(plain, *what) for what in columns()[1:]])
            for seed in given.seeds
            for scores, plain in [(trials[given, seed].scores, trials[given.plain, seed].scores)]
        ]
        mean, half = mean_interval(gains)
        groups.setdefault(dict(given.objective).get("alpha", 0.9), []).append((np.mean(shares), mean, half))
    points = []
    for color, (alpha, found) in enumerate(sorted(groups.items(), reverse=True)):
        x, y, half = (100 * np.array(found).T).tolist()
        half = np.nan_to_num(half)  # none of a single seed
        bars = [(mean - width, mean + width) for mean, width in zip(y, half, strict=True)]
        points.append(Points(f"alpha {alpha:g}", x, y, [""] * len(x), bars, color))
    labels = {"x_label": "attention to pictures of the same class, %", "y_label": "few-shot gain, points"}
    path.write_text(framed(point_chart(points, **labels, zero=True)), encoding="utf-8")


LOGGED = ("context_temperature", "effective_items", "companions")


def columns() -> list[tuple[str, int]]:
    """Returns method and shots of each column of the tables."""
    return [("zero_shot", 0), *itertools.product(METHODS, SHOTS)]


def mean_of(scores: Mapping[tuple[str, str, int], float], method: str, shots: int) -> float:
    """Returns the mean over the sets that have such a score."""
    return float(np.mean([value for (_, *what), value in scores.items() if tuple(what) == (method, shots)]))


def name_of(given: Arm) -> str:
    """Returns an arm in words, without the learning rate of most."""
    words = [f"{given.together} together" if given.together > 1 else "as they come", f"batch {given.batch_size:,}"]
    words += [f"rate {given.rate:g}"] if given.rate != RATE else []
    words += [f"{key} {value}" for key, value in given.objective if key != "context"]
    return ", ".join(words)


def write_rows(trials: Trials) -> None:
    """Writes a line for each run, set, method and shots."""
    with open(ROWS, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(
            ["together", "batch_size", "rate", "objective", "seed", *LOGGED, "dataset", "method", "shots", "accuracy"]
        )
        for (given, seed), trial in trials.items():
            objective = " ".join(f"{key}={value}" for key, value in given.objective)
            logged = [f"{trial.last[key]:.5g}" if key in trial.last else "" for key in LOGGED]
            for what, value in trial.scores.items():
                row = [given.together, given.batch_size, given.rate, objective, seed, *logged, *what, f"{value:.5f}"]
                out.writerow(row)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "runs" / "study" / "data", help="folder")
    args = parser.parse_args()
    folder = args.data / "features"
    if not folder.is_dir():
        parser.error(f"--data={args.data} has no folder features/")
    data = open_data(folder)
    arms = [each for found in tables().values() for given in found for each in (given.plain, given)]
    trials = run(list(dict.fromkeys(arms)), data)
    before = score({"image": np.eye(DIM, dtype=np.float32), "text": np.eye(DIM, dtype=np.float32)}, data)
    write_rows(trials)
    draw_shares(trials, SHARES)
    text = summarize(trials, before)
    print(text)
    put(text + "\n\n" + f"![heads: few-shot gain by where attention goes](study/{SHARES.name})", "heads")
    return 0


if __name__ == "__main__":
    sys.exit(main())

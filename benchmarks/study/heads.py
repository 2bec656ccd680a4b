"""Heads on CLIP's own features: the effect of the context objective when batches hold related images.

    python -m benchmarks.study.heads --data=FOLDER       # interrupted, the same command resumes

FOLDER/features holds `imagenet_a.npz`, `caltech101.npz` and `oxford_flowers.npz` with features of OpenAI's CLIP
ViT-B/32. A linear map of image features and one of text features, both initially the identity, are trained on seven
images of each of 400 ImageNet classes and the class names, then evaluated zero-shot on 100 other ImageNet classes and
few-shot on Caltech-101 and flowers. Rows go to docs/study/heads.csv, the figure to docs/study/heads-shares.svg.
"""

from __future__ import annotations

import argparse
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from adapt.report.charts import Points, point_chart
from adapt.report.statistics import mean_interval
from benchmarks.machine import describe_machine
from benchmarks.study import page
from benchmarks.study.figures import framed
from benchmarks.study.files import RESULTS, ROOT, RUNS, record_runs, write_csv
from benchmarks.study.head_runs import (
    DIM,
    METHODS,
    RATE,
    SEEDS,
    SHOTS,
    STEPS,
    WHOLE,
    HeadData,
    HeadSettings,
    head_settings,
    open_data,
    score,
    train,
)
from benchmarks.study.markdown import markdown, points
from foundation.files.atomic import write_text
from foundation.files.json_lines import append_json_line, read_json_lines

TRIALS = RUNS / "heads.jsonl"
LOGGED = ("context_temperature", "effective_items", "companions")
CELLS = (("zero_shot", 0), *itertools.product(METHODS, SHOTS))


def tables() -> dict[str, list[HeadSettings]]:
    """Return the heads with context in each table; every one is compared with its plain head."""
    best = {"alpha": 0.5, "context_temperature": 0.03}
    return {
        "Images per class, weight and initial temperature": [
            head_settings(together, alpha=alpha, context_temperature=temperature)
            for together in (1, 2, 4, 7)
            for alpha, temperature in ((0.9, 0.1), (0.9, 0.03), (0.5, 0.1), (0.5, 0.03), (0.0, 0.03))
        ],
        "One change at a time, from 4 per class, alpha 0.5, temperature 0.03": [
            head_settings(4, **best, **change)
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
        + [head_settings(4, alpha=0.5, context_temperature=temperature) for temperature in (0.01, 0.3)],
        "Variants that the paper does not have": [
            head_settings(4, **best, neighbours="texts"),
            head_settings(4, alpha=0.0, context_temperature=0.03, neighbours="texts"),
            head_settings(**best, neighbours="texts"),
            head_settings(memory=2560, **best),
            head_settings(memory=2560, alpha=0.9, context_temperature=0.03),
            head_settings(memory=2560, alpha=0.0, context_temperature=0.03),
            head_settings(4, memory=2560, alpha=0.0, context_temperature=0.03),
            head_settings(4, alpha=0.5, context_temperature=0.1, final_temperature=0.01),
            head_settings(alpha=0.5, context_temperature=0.1, final_temperature=0.01),
        ],
        "At a third of the learning rate": [
            head_settings(alpha=0.0, context_temperature=0.03, rate=RATE * 0.3),
            head_settings(4, alpha=0.5, context_temperature=0.03, rate=RATE * 0.3),
            head_settings(4, alpha=0.0, context_temperature=0.03, rate=RATE * 0.3),
            head_settings(4, alpha=0.0, context_temperature=0.03, neighbours="texts", rate=RATE * 0.3),
            head_settings(memory=2560, alpha=0.0, context_temperature=0.03, rate=RATE * 0.3),
        ],
        "Batch size, shuffled": [head_settings(batch_size=batch_size, **best) for batch_size in (64, 256, 1024, WHOLE)],
    }


class HeadResult(NamedTuple):
    """Scores of one run, its last metrics, and the seconds that it took."""

    scores: dict[tuple[str, str, int], float]
    last: dict[str, float]
    seconds: float


Trials = Mapping[tuple[HeadSettings, int], HeadResult]


def run(heads: Sequence[HeadSettings], data: HeadData) -> Trials:
    """Train and score every head with every seed. Results in the file of trials are kept, new ones are added."""
    kept = {}
    for name, seed, scores, last, seconds in read_json_lines(TRIALS):
        kept[name, seed] = HeadResult({(d, m, k): value for d, m, k, value in scores}, last, seconds)
    trials = {}
    for settings, seed in tqdm([(each, seed) for each in heads for seed in each.seeds], desc="heads"):
        name = trial_key(settings)
        if (name, seed) not in kept:
            began = time.monotonic()
            trained, last = train(settings, data, seed=seed)
            result = HeadResult(score(trained, data), last, time.monotonic() - began)
            scores = [[*cell, value] for cell, value in result.scores.items()]
            append_json_line(TRIALS, [name, seed, scores, last, result.seconds])
            kept[name, seed] = result
        trials[settings, seed] = kept[name, seed]
    return trials


def summarize(trials: Trials, before: Mapping[tuple[str, str, int], float]) -> str:
    """Return the tables: CLIP itself, the plain heads, and the gain of every head with context."""
    seconds = sum(trial.seconds for trial in trials.values())
    lines = [
        f"`python -m benchmarks.study.heads`, {describe_machine()}; {len(trials)} runs of {STEPS} steps, {SEEDS} seeds "
        f"per head (one with all images in a batch), {seconds / 60:.0f} minutes in all",
    ]
    columns = ["zero-shot", *(f"{method}, {shots}" for method in METHODS for shots in SHOTS)]
    rows = [["CLIP itself", *(f"{100 * mean_of(before, *cell):.1f}" for cell in CELLS)]]
    for settings in dict.fromkeys(each for each, _ in trials):
        if settings == settings.plain:
            scores = [trials[settings, seed].scores for seed in settings.seeds]
            means = [np.mean([mean_of(each, *cell) for each in scores]) for cell in CELLS]
            rows.append([describe(settings), *(f"{100 * mean:.1f}" for mean in means)])
    lines += ["", *markdown(["without context", *columns], rows)]
    heads = ["gain, points", *columns, "temperature · √d", "attended", "of the same class"]
    for title, chosen in tables().items():
        rows = [[describe(settings), *gain_cells(trials, settings)] for settings in chosen]
        lines += ["", f"**{title}**", "", *markdown(heads, rows)]
    return "\n".join(lines)


def gain_cells(trials: Trials, settings: HeadSettings) -> list[str]:
    """Return the gains of a head with context, and what it logged, means over seeds."""
    cells = []
    for cell in CELLS:
        pairs = [(trials[settings, seed].scores, trials[settings.plain, seed].scores) for seed in settings.seeds]
        cells.append(points(*mean_interval([mean_of(one, *cell) - mean_of(plain, *cell) for one, plain in pairs])))
    temperature, attended, same = (
        np.mean([trials[settings, seed].last.get(key, math.nan) for seed in settings.seeds]) for key in LOGGED
    )
    cells += [f"{temperature * np.sqrt(DIM):.3f}", f"{attended:.1f}"]
    return [*cells, "" if math.isnan(same) else f"{100 * same:.0f} %"]


def draw_shares(trials: Trials, path: pathlib.Path) -> None:
    """Draw the gain, averaged over methods and shots, by the share of attention on images of the same class."""
    groups: dict[float, list[tuple[float, float, float]]] = {}
    for settings in dict.fromkeys(each for each, _ in trials):
        shares = [trials[settings, seed].last.get("companions", math.nan) for seed in settings.seeds]
        if settings == settings.plain or math.isnan(shares[0]):
            continue
        gains = [
            np.mean([mean_of(scores, *cell) - mean_of(plain, *cell) for cell in CELLS[1:]])
            for seed in settings.seeds
            for scores, plain in [(trials[settings, seed].scores, trials[settings.plain, seed].scores)]
        ]
        mean, half_width = mean_interval(gains)
        groups.setdefault(dict(settings.objective).get("alpha", 0.9), []).append((np.mean(shares), mean, half_width))
    drawn = []
    for color, (alpha, found) in enumerate(sorted(groups.items(), reverse=True)):
        x, y, half_widths = (100 * np.array(found).T).tolist()
        half_widths = np.nan_to_num(half_widths)  # none of a single seed
        bars = [(mean - width, mean + width) for mean, width in zip(y, half_widths, strict=True)]
        drawn.append(Points(f"alpha {alpha:g}", x, y, [""] * len(x), bars, color))
    labels = {"x_label": "attention to images of the same class, %", "y_label": "few-shot gain, points"}
    write_text(path, framed(point_chart(drawn, **labels, zero=True)))


def mean_of(scores: Mapping[tuple[str, str, int], float], method: str, shots: int) -> float:
    """Return the mean over the datasets that have such a score."""
    return float(np.mean([value for (_, *cell), value in scores.items() if tuple(cell) == (method, shots)]))


def describe(settings: HeadSettings) -> str:
    """Return the settings in words; the learning rate is left out if it is the usual one."""
    words = [f"{settings.together} per class" if settings.together > 1 else "shuffled"]
    words += [f"batch {settings.batch_size:,}"]
    words += [f"rate {settings.rate:g}"] if settings.rate != RATE else []
    return ", ".join([*words, *(f"{key} {value}" for key, value in settings.objective if key != "context")])


def trial_key(settings: HeadSettings) -> str:
    """Return the name of a head in the file of trials; changing it would train finished heads again."""
    words = [f"{settings.together} together" if settings.together > 1 else "as they come"]
    words += [f"batch {settings.batch_size:,}"]
    words += [f"rate {settings.rate:g}"] if settings.rate != RATE else []
    words += [f"{key} {value}" for key, value in settings.objective if key != "context"]
    return f"{', '.join(words)}, rate {settings.rate}"


def write_rows(trials: Trials, path: pathlib.Path) -> None:
    """Write one row per run, dataset, method and shots."""
    rows = []
    for (settings, seed), trial in trials.items():
        objective = " ".join(f"{key}={value}" for key, value in settings.objective)
        logged = [f"{trial.last[key]:.5g}" if key in trial.last else "" for key in LOGGED]
        given = [settings.together, settings.batch_size, settings.rate, objective, seed, *logged]
        rows += [[*given, *cell, f"{value:.5f}"] for cell, value in trial.scores.items()]
    columns = ["together", "batch_size", "rate", "objective", "seed", *LOGGED, "dataset", "method", "shots", "accuracy"]
    write_csv(path, columns, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.heads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=pathlib.Path,
        default=RUNS / "data",
        help=f"folder that holds features/ (default: {(RUNS / 'data').relative_to(ROOT)})",
    )
    args = parser.parse_args(arguments)
    folder = args.data / "features"
    if not folder.is_dir():
        parser.error(f"--data={args.data} has no folder features/")
    data = open_data(folder)
    heads = [each for found in tables().values() for settings in found for each in (settings.plain, settings)]
    trials = run(list(dict.fromkeys(heads)), data)
    before = score({"image": np.eye(DIM, dtype=np.float32), "text": np.eye(DIM, dtype=np.float32)}, data)
    print(summarize(trials, before))
    write_rows(trials, RESULTS / "heads.csv")
    draw_shares(trials, RESULTS / "heads-shares.svg")
    seconds = sum(trial.seconds for trial in trials.values())
    record_runs(RESULTS / "runs.csv", "heads", runs=len(trials), seconds=seconds)
    page.write(RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())

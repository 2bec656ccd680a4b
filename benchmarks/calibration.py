"""Calibration of probabilities from a few support images, against more cautious temperatures.

    python -m benchmarks.calibration --features=FOLDER [--method=tip_adapter] [--shots=4] [--classes=6] [--draws=12]

FOLDER has a data set of stored features per file or folder, as `launch.py evaluate --features` takes them. Each draw
has other classes and support images. For each data set: the expected calibration error (ECE, ten bins), the negative
log-likelihood (NLL), the mean confidence minus the accuracy, and the share of right predictions above 0.99.

`fitted` is `adapt.model_selection.calibration`. `cautious` takes the smallest factor whose log-likelihood on the
left-out support images is at most 1 below the largest. `averaged` averages the probabilities of all factors, weighted
by their likelihood.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from adapt.adapters.support import make_support
from adapt.evaluation.stored.feature_sets import find_feature_sets
from adapt.model_selection.calibration import PSEUDO_EXAMPLES, fit_on_left_out, left_out_logits, probabilities
from adapt.model_selection.hyperparameters import select
from data.features.labelled import FeatureDataset, open_labelled_features

QUERIES, MIN_QUERIES, BINS = 256, 4, 10
FACTORS = np.exp(np.linspace(-4, 4, 161))  # relative to the fitted one


class CalibrationDraw(NamedTuple):
    """Logits of left-out support images `[n, classes]` and of queries `[queries, classes]`, with the labels of both."""

    left_out: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    query_labels: np.ndarray


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row per data set and rule, and return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.splitlines()[0])
    parser.add_argument("--features", required=True, help="folder of data sets of stored features, of one encoder")
    parser.add_argument("--method", default="tip_adapter", help="adapter (default: tip_adapter)")
    parser.add_argument("--shots", type=int, default=4, help="support images per class (default: 4)")
    parser.add_argument("--classes", type=int, default=6, help="classes per draw, if there are as many (default: 6)")
    parser.add_argument("--draws", type=int, default=12, help="draws per data set (default: 12)")
    args = parser.parse_args(arguments)
    print("| data set | rule | ECE | NLL | confidence − accuracy | above 0.99 | right of these |")
    print("|---|---|---|---|---|---|---|")
    [sets] = find_feature_sets((args.features,), datasets=()).values()
    for name, found in sets.items():
        dataset = open_labelled_features(found.path, name=name, parts=found.parts)
        draws = [
            draw(dataset, args.method, seed=seed, shots=args.shots, classes=args.classes) for seed in range(args.draws)
        ]
        for rule, classify in RULES.items():
            print(f"| {name} | {rule} | {summary(draws, classify)} |", flush=True)
    return 0


def draw(dataset: FeatureDataset, method: str, *, seed: int, shots: int, classes: int) -> CalibrationDraw:
    """Return the logits of a support set with `shots` images of each of some classes, and of their queries."""
    rng = np.random.default_rng([seed, shots])
    labels, query_labels = dataset.support.labels, dataset.query.labels
    usable = [
        label
        for label in range(len(dataset.class_names))
        if (labels == label).sum() >= shots and (query_labels == label).sum() >= MIN_QUERIES
    ]
    chosen = np.sort(rng.permutation(usable)[:classes])
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:shots] for label in chosen])
    queries = rng.permutation(np.flatnonzero(np.isin(query_labels, chosen)))[:QUERIES]
    support, own = dataset.support.features[rows], np.searchsorted(chosen, labels[rows])
    adapter = select(method, support, own, num_classes=len(chosen), key=jax.random.key(0)).adapter
    left_out = left_out_logits(adapter, make_support(support, own, num_classes=len(chosen)), key=jax.random.key(0))
    padded = np.resize(queries, QUERIES)  # one shape, so that one program serves all draws
    logits = np.asarray(adapter.fit(support, own, num_classes=len(chosen))(dataset.query.features[padded]))
    return CalibrationDraw(left_out, own, logits[: len(queries)], np.searchsorted(chosen, query_labels[queries]))


def summary(draws: Sequence[CalibrationDraw], classify: Callable[[CalibrationDraw], np.ndarray]) -> str:
    """Return the cells of a rule that gives the probabilities `[queries, classes]` of a draw."""
    errors, losses, confidences, correct = [], [], [], []
    for each in draws:
        found = classify(each)
        confidence, right = found.max(axis=1), found.argmax(axis=1) == each.query_labels
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        gaps = np.bincount(bins, confidence, BINS) - np.bincount(bins, right, BINS)
        errors.append(np.abs(gaps).sum() / len(right))
        losses.append(-np.log(np.maximum(found[np.arange(len(right)), each.query_labels], 1e-12)).mean())
        confidences.append(confidence)
        correct.append(right)
    confidence, right = np.concatenate(confidences), np.concatenate(correct)
    sure = confidence > 0.99
    cells = [f"{np.mean(errors):.3f}", f"{np.mean(losses):.3f}", f"{confidence.mean() - right.mean():+.3f}"]
    return " | ".join([*cells, f"{sure.mean():.1%}", f"{right[sure].mean():.1%}" if sure.any() else "–"])


def fitted(each: CalibrationDraw) -> np.ndarray:
    """Return the probabilities with the fitted factor."""
    return probabilities(each.logits, fit_on_left_out(each.left_out, each.labels))


def cautious(each: CalibrationDraw) -> np.ndarray:
    """Return the probabilities with the smallest factor that is about as likely as the fitted one."""
    factor = fit_on_left_out(each.left_out, each.labels)
    likely = _log_likelihoods(each, factor) >= _log_likelihoods(each, factor).max() - 1
    return probabilities(each.logits, factor * FACTORS[likely].min())


def averaged(each: CalibrationDraw) -> np.ndarray:
    """Return the mean of the probabilities with all factors, weighted by the likelihood of the left-out images."""
    factor = fit_on_left_out(each.left_out, each.labels)
    weights = np.exp(_log_likelihoods(each, factor) - _log_likelihoods(each, factor).max())
    found = sum(
        weight * probabilities(each.logits, factor * relative)
        for weight, relative in zip(weights, FACTORS, strict=True)
    )
    return found / weights.sum()


RULES = {"fitted": fitted, "cautious": cautious, "averaged": averaged}


def _log_likelihoods(each: CalibrationDraw, factor: float) -> np.ndarray:
    """Return the log-likelihood of the left-out images, with Platt's two pseudo examples, for `factor` × `FACTORS`."""
    count, classes = each.left_out.shape
    targets = np.full((count, classes), PSEUDO_EXAMPLES / classes / count)
    targets[np.arange(count), each.labels] += 1
    found = [probabilities(each.left_out, factor * relative) for relative in FACTORS]
    return np.array([(targets * np.log(np.maximum(each_found, 1e-300))).sum() for each_found in found])


if __name__ == "__main__":
    raise SystemExit(main())

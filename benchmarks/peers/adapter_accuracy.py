"""Few-shot accuracy of every adapter on CLIP features, with default and with selected settings.

python -m benchmarks.peers.adapter_accuracy --features=FOLDER [--sets=caltech101,…] [--methods=gda,…] [--locality]

FOLDER holds .npz files of CLIP ViT-B/32 features. For caltech101 and oxford_flowers, which have no text, ten random
support sets per number of shots are drawn from `support_16` and `val` together, and `test` holds the queries. For
imagenet_a, `support_1` and `support_2` are evaluated on `support_4`, and `support_4` on `support_2`. imagenet_a_100
draws 100 of its classes and, per class, three query images and up to four support images from all three. Settings are
selected on the support set alone. Prints the mean accuracy and the half-width of its 95 % interval over support sets.
Transductive methods, which classify all queries together, have a table of their own.

--skewed keeps the queries of 30 of the 100 classes (imagenet_a_100); all 100 stay candidates, as in a folder of images
that lacks most classes.

--uneven gives each class between 1 and the stated number of shots, at random (imagenet_a_100).

--locality instead adapts to the first 250 of the 500 classes of imagenet_a, from `support_2`, and prints the accuracy
on queries of those classes and of the other classes, always among all 500.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import adapt
from adapt.adapters.ops import normalize
from adapt.adapters.registry import TRANSDUCTIVE
from adapt.adapters.support import Support
from adapt.model_selection.hyperparameters import Grid
from adapt.report.statistics import mean_interval
from benchmarks.machine import describe_machine

SHOTS = {
    "caltech101": (1, 2, 4, 8, 16),
    "oxford_flowers": (1, 2, 4, 8, 16),
    "imagenet_a": (1, 2, 4),
    "imagenet_a_100": (1, 2, 4),
}
DRAWS = 10
GROUPS = {
    "training_free": adapt.TRAINING_FREE,
    "trained": tuple(name for name, method in adapt.METHODS.items() if not method.training_free),
    "transductive": TRANSDUCTIVE,
}
VARIANTS = {"transclip": (("variant", "zero_shot"),)}  # rows in addition, with default settings otherwise
_SUBSET_CLASSES, _SUBSET_QUERIES, _SKEWED_CLASSES = 100, 3, 30


class Draws(NamedTuple):
    """Support sets of one size, their queries, and the classes' text features.

    `features` `[draws, n, dim]`, `labels` `[draws, n]`, `query` `[m, dim]`, `members` `[m, classes]` (one-hot), and
    `text` `[classes, dim]` or None.
    """

    features: jax.Array
    labels: jax.Array
    query: jax.Array
    members: np.ndarray
    text: jax.Array | None


def draw_supports(folder: pathlib.Path, name: str, *, shots: int, draws: int = DRAWS) -> Draws:
    """Return support sets of `shots` images per class, and their queries."""
    found, unit = _read_features(folder, name)
    if name == "imagenet_a":
        support = unit[f"support_{shots}"][None], found[f"support_labels_{shots}"][None]
        query = 4 if shots < 4 else 2
        members = np.eye(500)[found[f"support_labels_{query}"]]
        return Draws(*support, unit[f"support_{query}"], members, unit["text"])
    pool = np.concatenate([unit["support_16"], unit["val"]])
    labels = np.concatenate([found["support_labels_16"], found["val_labels"]])
    rows = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        members = [rng.permutation(np.flatnonzero(labels == label))[:shots] for label in range(labels.max() + 1)]
        rows.append(np.concatenate(members))
    rows = np.stack(rows)
    return Draws(pool[rows], labels[rows], unit["test"], np.eye(labels.max() + 1)[found["test_labels"]], None)


def draw_subsets(
    folder: pathlib.Path, *, shots: int, draws: int = DRAWS, uneven: bool = False, skewed: bool = False
) -> list[Draws]:
    """Return tasks of 100 classes of imagenet_a, each with one support set and its own queries.

    With `uneven`, classes have between 1 and `shots` support images; the missing ones are padding. With `skewed`, only
    30 of the classes have queries.
    """
    found, unit = _read_features(folder, "imagenet_a")
    pool = np.concatenate([unit[f"support_{k}"] for k in (1, 2, 4)])
    labels = np.concatenate([found[f"support_labels_{k}"] for k in (1, 2, 4)])
    tasks = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        classes = rng.permutation(500)[:_SUBSET_CLASSES]
        rows = np.stack([rng.permutation(np.flatnonzero(labels == label)) for label in classes])
        query, support = rows[:, :_SUBSET_QUERIES], rows[:, _SUBSET_QUERIES:][:, :shots]
        numbers = np.repeat(np.arange(_SUBSET_CLASSES)[:, None], shots, axis=1)
        if uneven:
            numbers = np.where(np.arange(shots) < rng.integers(1, shots + 1, (_SUBSET_CLASSES, 1)), numbers, -1)
        members = np.repeat(np.eye(_SUBSET_CLASSES), _SUBSET_QUERIES, axis=0)
        if skewed:
            query, members = query[:_SKEWED_CLASSES], members[: _SKEWED_CLASSES * _SUBSET_QUERIES]
        text = unit["text"][classes]
        tasks.append(Draws(pool[support.ravel()][None], numbers.reshape(1, -1), pool[query.ravel()], members, text))
    return tasks


def _read_features(folder: pathlib.Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the arrays of a file, and its features with rows of length 1."""
    found = dict(np.load(folder / f"{name}.npz", allow_pickle=False))
    return found, {key: np.asarray(normalize(array)) for key, array in found.items() if array.ndim == 2}


class SupportAccuracies(NamedTuple):
    """Accuracies `[draws]` and numbers of the selected settings `[draws]`."""

    accuracy: jax.Array
    chosen: jax.Array


@functools.partial(jax.jit, static_argnums=0, static_argnames=("select", "leave_out", "fixed"))
def accuracies(
    name: str, draws: Draws, *, select: bool, leave_out: str | None = None, fixed: tuple[tuple[str, str], ...] = ()
) -> SupportAccuracies:
    """Return the accuracy of each support set, and the number of the setting that was selected."""
    options, key = Grid(name, leave_out=leave_out, **dict(fixed)), jax.random.key(0)

    def one(case: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        support = Support(*case, draws.text, jnp.float32(100), num_classes=draws.members.shape[1])
        chosen = options.choose(support, key=key).chosen if select else jnp.int32(0)

        def right(adapter: adapt.Adapter) -> jax.Array:
            logits = adapter.fit_support(support, key=key)(draws.query)
            return jnp.mean(jnp.argmax(logits, axis=1) == jnp.argmax(draws.members, axis=1))

        return options.apply(chosen, right), chosen

    return SupportAccuracies(*jax.lax.map(one, (draws.features, draws.labels)))


def locality(folder: pathlib.Path, methods: list[str]) -> None:
    """Print the accuracy on classes with and without support images, each method alone and inside `local`."""
    given = draw_supports(folder, "imagenet_a", shots=2)
    labels, first = np.asarray(given.labels[0]), np.argmax(given.members, axis=1) < 250
    features, labels = given.features[0][labels < 250], labels[labels < 250]

    def row(name: str, settings: str, adapter: adapt.Adapter) -> None:
        classifier = adapter.fit(features, labels, class_text_features=given.text)
        right = np.argmax(classifier(given.query), axis=1) == np.argmax(given.members, axis=1)
        seen, others = 100 * right[first].mean(), 100 * right[~first].mean()
        changes = (seen - before[0], others - before[1]) if before else (0.0, 0.0)
        before.extend([seen, others] if not before else [])
        print(
            f"| {name} | {settings} | {seen:.1f} ({changes[0]:+.1f}) | {others:.1f} ({changes[1]:+.1f}) |", flush=True
        )

    before: list[float] = []
    print("\n| method | settings | classes with support | classes without |\n|---|---|---|---|")
    row("zero_shot", "", adapt.create("zero_shot"))
    text = {"class_text_features": given.text}
    for name in methods:
        if name in ("zero_shot", "local"):
            continue
        chosen = adapt.select(name, features, labels, **text).adapter
        for settings, adapter in (("defaults", adapt.create(name)), ("selected", chosen)):
            row(name, settings, adapter)
            if not adapter.local:
                row(f"local({name})", settings, adapt.create("local", inner=adapter))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.adapter_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--features", type=pathlib.Path, required=True, help="folder with .npz files of features")
    parser.add_argument("--sets", default=",".join(SHOTS), help="sets, separated by commas (default: all)")
    parser.add_argument(
        "--methods",
        default=",".join(GROUPS),
        help=f"methods or {', '.join(GROUPS)}, separated by commas (default: all)",
    )
    parser.add_argument("--shots", help="numbers of shots, separated by commas (default: all of the set)")
    parser.add_argument("--draws", type=int, default=DRAWS, help="support sets per number of shots (default: 10)")
    parser.add_argument("--settings", action="store_true", help="print how often each setting was selected")
    parser.add_argument("--defaults", action="store_true", help="only default settings, without selection")
    parser.add_argument(
        "--leave_out", choices=("one", "fold"), help="how settings are selected (default: as each method prefers)"
    )
    parser.add_argument("--uneven", action="store_true", help="between 1 and the number of shots per class, at random")
    parser.add_argument("--skewed", action="store_true", help="queries of 30 of the 100 classes (imagenet_a_100)")
    parser.add_argument("--locality", action="store_true", help="print the accuracy on classes without support images")
    args = parser.parse_args(arguments)
    methods = [name for given in args.methods.split(",") for name in GROUPS.get(given, (given,))]
    if args.locality:
        print(f"{describe_machine()}, jax {jax.__version__}")
        locality(args.features, [name for name in methods if name not in TRANSDUCTIVE])
        return 0
    print(f"{describe_machine()}, jax {jax.__version__}; {args.draws} support sets; mean ± 95 % interval, %")
    for name in args.sets.split(","):
        usable = [each for each in methods if name.startswith("imagenet_a") or not adapt.find(each).needs_text]
        for kind in ("inductive", "transductive"):
            members = [each for each in usable if (each in TRANSDUCTIVE) == (kind == "transductive")]
            if members:
                _table(name, kind, members, args)
    return 0


def _table(name: str, kind: str, methods: Sequence[str], args: argparse.Namespace) -> None:
    """Print the accuracy of methods of one kind on a set."""
    shots = tuple(map(int, args.shots.split(","))) if args.shots else SHOTS[name]
    print(f"\n{name}, {kind}\n\n| method | settings | " + " | ".join(f"{k} shots" for k in shots) + " |")
    print("|---|---|" + "---|" * len(shots))
    tasks = {k: _tasks(name, k, args) for k in shots}
    for method in methods:
        rows: list[tuple[str, dict[str, Any]]] = [("defaults", {"select": False}), ("selected", {"select": True})]
        if method == "zero_shot" or args.defaults:
            rows = rows[:1]
        rows += [("=".join(pair), {"select": False, "fixed": (pair,)}) for pair in VARIANTS.get(method, ())]
        for label, options in rows:
            began, cells, taken = time.perf_counter(), [], []
            for each in tasks.values():
                found = [accuracies(method, task, leave_out=args.leave_out, **options) for task in each]
                mean, half = mean_interval([float(100 * value) for one in found for value in one.accuracy])
                cells.append(f"{mean:.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}"))
                taken.append(np.concatenate([one.chosen for one in found]))
            print(f"| {method} | {label} | {' | '.join(cells)} | {time.perf_counter() - began:.1f} s", flush=True)
            if label == "selected" and args.settings:
                _print_settings(method, shots, taken)


def _tasks(name: str, shots: int, args: argparse.Namespace) -> list[Draws]:
    if name == "imagenet_a_100":
        return draw_subsets(args.features, shots=shots, draws=args.draws, uneven=args.uneven, skewed=args.skewed)
    return [draw_supports(args.features, name, shots=shots, draws=args.draws)]


def _print_settings(method: str, shots: Sequence[int], taken: Sequence[np.ndarray]) -> None:
    options = Grid(method).settings
    for k, numbers in zip(shots, taken, strict=True):
        values, counts = np.unique(numbers, return_counts=True)
        print(f"    {k} shots:", *(f"{count}× {options[v]}" for v, count in zip(values, counts, strict=True)))


if __name__ == "__main__":
    sys.exit(main())

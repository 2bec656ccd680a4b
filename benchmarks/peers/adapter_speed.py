"""Time and memory of the adapters, against PyTorch, scikit-learn and faiss.

python -m benchmarks.peers.adapter_speed grid|all|peers|imagenet [--features=FOLDER]

all       every training-free method at 1, 2, 4, 8 and 16 shots and 10 support sets, settings selected on each of them,
          as `launch.py evaluate` does it
grid      Tip-Adapter's leave-one-out accuracy at 200 beta × 20 alpha, against a loop over the grid in PyTorch
peers     linear_probe against scikit-learn's LogisticRegression, knn and `adapt.nearest` against faiss' exact search, a
          fit of llu. Searches take turns, and the fastest turn of each counts; the limit is their matrix product.
imagenet  1,000 classes × 16 shots, 50,000 queries, 768 dimensions, synthetic: seconds and memory, a process per method.
          The limit of a transductive method, the time of its matrix products at the peak, stands next to it.

FOLDER holds caltech101.npz with CLIP ViT-B/32 features of 100 classes, including 2,465 queries. It has no text; the
class means of its validation images replace it, which changes the accuracy but not the time. Times include compilation
unless the row says "again".
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import adapt
from adapt.adapters.ops import class_means, normalize, normalize_numpy
from adapt.evaluation.fewshot import run_grid
from benchmarks.machine import describe_machine, measure_peak
from benchmarks.peers.adapter_accuracy import Draws, draw_supports
from benchmarks.peers.installed import missing_peers

SEEDS = 10
SHOTS = (1, 2, 4, 8, 16)
PEAK_SIZE = 2048
STORED = 200_000  # rows that `adapt.nearest` searches
TURNS = 10  # of a search
NEEDED = {  # by table: the peers, and what installs them
    "grid": (("torch",), "requirements-parity.txt"),
    "peers": (("sklearn", "faiss"), "requirements-bench.txt"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the chosen tables and return 0, or name what is missing and return 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.adapter_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tables", nargs="+", choices=("all", "grid", "peers", "imagenet"), help="tables to print")
    parser.add_argument("--features", type=pathlib.Path, help="folder with caltech101.npz; not needed for imagenet")
    parser.add_argument(
        "--methods",
        default=",".join(adapt.TRAINING_FREE),
        help="methods of all and imagenet, separated by commas (default: training-free)",
    )
    parser.add_argument("--dim", type=int, default=768, help="dimensions of imagenet (default: 768)")
    parser.add_argument("--classes", type=int, default=1000, help="classes of imagenet (default: 1000)")
    parser.add_argument("--queries", type=int, default=50_000, help="queries of imagenet (default: 50000)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    methods = args.methods.split(",")
    if args.one:
        return imagenet_one(args.one, classes=args.classes, queries=args.queries, dim=args.dim)
    for table in args.tables:
        modules, requirements = NEEDED.get(table, ((), ""))
        if message := missing_peers(*modules, requirements=requirements):
            print(message, file=sys.stderr)
            return 1
    if args.tables != ["imagenet"] and (args.features is None or not (args.features / "caltech101.npz").is_file()):
        print("error: --features must name a folder that holds caltech101.npz", file=sys.stderr)
        return 1
    print(f"{describe_machine()}, jax {jax.__version__}, {peak() / 1e9:.0f} GFLOP/s in float32 products")
    for table in args.tables:
        print()
        if table == "imagenet":
            imagenet(methods, classes=args.classes, queries=args.queries, dim=args.dim)
        elif table == "all":
            everything(args.features, methods)
        elif table == "grid":
            grid(args.features)
        else:
            peers(args.features)
    return 0


@functools.cache
def peak() -> float:
    """Return the peak FLOP/s of float32 products on this machine."""
    matrix, multiply = jnp.ones((PEAK_SIZE, PEAK_SIZE)), jax.jit(jnp.matmul)
    return measure_peak(lambda: multiply(matrix, matrix).block_until_ready(), PEAK_SIZE)


def with_text(folder: pathlib.Path, *, shots: int, draws: int = SEEDS) -> Draws:
    """Return support sets of caltech101, with class means instead of text features."""
    supports = draw_supports(folder, "caltech101", shots=shots, draws=draws)
    found = np.load(folder / "caltech101.npz", allow_pickle=False)
    num_classes = supports.members.shape[1]
    means, _ = class_means(normalize(found["val"]), jnp.asarray(found["val_labels"]), num_classes)
    return supports._replace(text=normalize(means))


def everything(folder: pathlib.Path, methods: list[str]) -> None:
    """Print the seconds of selection, fit and classification with `run_grid`, two methods at a time."""
    cases = [with_text(folder, shots=shots) for shots in SHOTS]
    supports = [np.asarray(each) for case in cases for each in case.features]
    labels = [np.asarray(each) for case in cases for each in case.labels]
    queries, text = np.asarray(cases[0].query), np.asarray(cases[0].text)
    groups, candidates = np.zeros(len(queries), np.int32), np.ones((1, len(text)), bool)

    def timed(method: str) -> float:
        began = time.perf_counter()
        run_grid(
            method,
            supports,
            labels,
            class_texts=text,
            queries=queries,
            groups=groups,
            candidates=candidates,
            logit_scale=100.0,
        )
        return time.perf_counter() - began

    print(f"caltech101, {SEEDS} support sets per size, selection + fit + all queries, two methods at a time, seconds")
    print("\n| method | with compilation | again |\n|---|---|---|")
    rounds, totals = [], []
    for _ in range(2):
        began, used = time.perf_counter(), time.process_time()
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            rounds.append(list(threads.map(timed, methods)))
        totals.append((time.perf_counter() - began, time.process_time() - used))
    for method, *seconds in zip(methods, *rounds, strict=True):
        print(f"| {method} | " + " | ".join(f"{each:.1f}" for each in seconds) + " |")
    print("| total | " + " | ".join(f"{wall:.1f}" for wall, _ in totals) + " |")
    print("| CPU seconds | " + " | ".join(f"{used:.1f}" for _, used in totals) + " |")


def grid(folder: pathlib.Path) -> None:
    """Print the seconds of Tip-Adapter's grid in both libraries on the same support set, and how well they agree."""
    import torch

    given = with_text(folder, shots=16, draws=1)
    betas, alphas = np.linspace(0.5, 50, 200), np.geomspace(0.1, 1000, 20)
    grids = {"alpha": tuple(map(float, alphas)), "beta": tuple(map(float, betas))}
    call = functools.partial(
        adapt.select, "tip_adapter", given.features[0], given.labels[0], class_text_features=given.text, grid=grids
    )
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        chosen = call(class_weight="none")
        seconds.append(time.perf_counter() - began)
    features, text = torch.tensor(np.array(given.features[0])), torch.tensor(np.array(given.text))
    labels = torch.tensor(np.array(given.labels[0]))
    members = torch.nn.functional.one_hot(labels).float()
    others = 1 - torch.eye(len(labels))
    loop = np.zeros((len(alphas), len(betas)))
    began = time.perf_counter()
    for column, beta in enumerate(betas):
        for row, alpha in enumerate(alphas):
            affinity = features @ features.T
            cached = (((-1) * (beta - beta * affinity)).exp() * others) @ members
            logits = 100.0 * features @ text.T + alpha * cached
            loop[row, column] = (logits.argmax(dim=1) == labels).float().mean()
    peer = time.perf_counter() - began
    apart = np.abs(loop.reshape(-1) - chosen.accuracy).max()
    print(
        f"Tip-Adapter, {len(labels):,} images left out in turn, {loop.size:,} settings (PyTorch {torch.__version__})\n"
    )
    print("| | seconds | ratio |\n|---|---|---|")
    print(f"| PyTorch loop | {peer:.1f} | 1 |")
    for name, took in zip(("adapt.select, with compilation", "adapt.select, again"), seconds, strict=True):
        print(f"| {name} | {took:.2f} | {peer / took:.0f} × faster |")
    # The cosines once, then for each beta an exponential and a product with the classes.
    n, dim = features.shape
    work = 2 * n * n * dim + len(betas) * 2 * n * n * members.shape[1]
    print(f"\nlargest difference of an accuracy: {apart:.4f}; limit, the products at the peak: {work / peak():.2f} s")


def peers(folder: pathlib.Path) -> None:
    """Print seconds and agreement with scikit-learn and faiss, and the seconds of llu."""
    import sklearn
    from sklearn.linear_model import LogisticRegression

    given = with_text(folder, shots=16, draws=1)
    x, y, query = (np.array(array) for array in (given.features[0], given.labels[0], given.query))
    right = np.argmax(given.members, axis=1)
    print("| what | seconds | peer | seconds | ratio | agreement | limit, s |\n|---|---|---|---|---|---|---|")

    def ours(name: str, **settings: float) -> tuple[np.ndarray, float, float]:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            classifier = adapt.create(name, **settings).fit(x, y, class_text_features=given.text)
            logits = np.asarray(classifier(query))
            seconds.append(time.perf_counter() - began)
        return logits, *seconds

    if "linear_probe" in adapt.METHODS:
        logits, first, again = ours("linear_probe", c=10.0)
        began = time.perf_counter()
        peer = LogisticRegression(C=10.0, max_iter=10_000, tol=1e-6).fit(x, y)
        guesses = peer.predict(query)
        took = time.perf_counter() - began
        same = np.mean(np.argmax(logits, axis=1) == guesses)
        print(
            f"| linear_probe, C 10 | {first:.2f}, again {again:.2f} | scikit-learn {sklearn.__version__} | {took:.2f} "
            f"| {took / again:.1f} × | {same:.2%} of predictions | |"
        )
    searches(x, y, query)
    logits, first, again = ours("llu")
    accuracy = np.mean(np.argmax(logits, axis=1) == right)
    print(f"| llu, {given.members.shape[1]} × 16 | {first:.1f}, again {again:.1f} | | | | {accuracy:.1%} right | |")


def searches(x: np.ndarray, y: np.ndarray, query: np.ndarray) -> None:
    """Print the seconds of knn and of `adapt.nearest` next to those of faiss, and their agreement."""
    import faiss

    def row(name: str, ours: Callable[[], np.ndarray], peer: Callable[[], np.ndarray], operations: float) -> None:
        began = time.perf_counter()
        found = ours()
        first, seconds = time.perf_counter() - began, ([], [])
        for _ in range(TURNS):
            for times, search in zip(seconds, (ours, peer), strict=True):
                began = time.perf_counter()
                result = search()
                times.append(time.perf_counter() - began)
        again, took = map(min, seconds)
        print(
            f"| {name} | {first:.2f}, again {again:.3f} | faiss {faiss.__version__} | {took:.3f} "
            f"| {took / again:.2f} × | {np.mean(found == result):.2%} | {operations / peak():.3f} |"
        )

    def faiss_knn(k: int) -> np.ndarray:
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(x)
        _, nearest = index.search(query, k)
        votes = np.zeros((len(query), y.max() + 1))
        np.add.at(votes, (np.arange(len(query))[:, None], y[nearest]), 1 + 2.0 ** -np.arange(10, 10 + k))
        return np.argmax(votes, axis=1)  # of equally many votes, the class with the nearest example

    for k in (1, 5):
        classifier = adapt.create("knn", votes="plurality", k=k)
        row(
            f"knn, k {k}, {len(x):,} × {len(query):,}",
            lambda classifier=classifier: np.argmax(np.asarray(classifier.fit(x, y)(query)), axis=1),
            lambda k=k: faiss_knn(k),
            2.0 * x.size * len(query),
        )
    rng = np.random.default_rng(0)
    stored, wanted = (normalize_numpy(rng.standard_normal((rows, 512), np.float32)) for rows in (STORED, 1000))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "features.npy")
        np.save(path, stored)
        row(
            f"nearest, k 10, {STORED:,} × {len(wanted):,}, from a file; faiss in memory",
            lambda: adapt.nearest(path, wanted, 10).rows,
            lambda: faiss.knn(wanted, stored, 10, metric=faiss.METRIC_INNER_PRODUCT)[1],
            2.0 * stored.size * len(wanted),
        )


def imagenet(methods: list[str], *, classes: int, queries: int, dim: int) -> None:
    """Print seconds and peak memory of each method in a process of its own."""
    print(f"{classes:,} classes × 16 shots, {queries:,} queries, {dim} dimensions, synthetic; default settings\n")
    print("| method | fit, s | classify, s | peak memory, GB | limit, s |\n|---|---|---|---|---|")
    for method in methods:
        command = [sys.executable, "-m", "benchmarks.peers.adapter_speed", "imagenet", f"--one={method}"]
        command += [f"--classes={classes}", f"--queries={queries}", f"--dim={dim}"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        last = (found.stdout if found.returncode == 0 else found.stderr).strip().splitlines()[-1]
        work = products(method, classes=classes, queries=queries, dim=dim)
        print(f"| {method} | {last} | {f'{work / peak():.1f}' if work else ''} |", flush=True)


def products(method: str, *, classes: int, queries: int, dim: int) -> float:
    """Return the floating-point operations of the matrix products of a transductive method, 0 for others."""
    cosines = 2.0 * queries * classes * dim
    if method == "transclip":  # all cosines, those of the support, and two products per update of the mixture
        return (queries / classes + 16) * cosines + (2 * adapt.METHODS[method].iterations + 2) * cosines
    if method == "ss_text_u":
        return (2 * adapt.METHODS[method].iterations + 1) * cosines
    return 0.0


def imagenet_one(method: str, *, classes: int, queries: int, dim: int) -> int:
    """Print the row of one method."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((classes, dim), np.float32)
    labels = np.repeat(np.arange(classes), 16)
    support = centers[labels] + rng.standard_normal((len(labels), dim), np.float32)
    query = centers[rng.integers(classes, size=queries)] + rng.standard_normal((queries, dim), np.float32)
    began = time.perf_counter()
    classifier = jax.block_until_ready(adapt.create(method).fit(support, labels, class_text_features=centers))
    fitted = time.perf_counter()
    jax.block_until_ready(classifier(query))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{fitted - began:.1f} | {time.perf_counter() - fitted:.1f} | {peak:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

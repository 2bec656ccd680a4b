"""What the context objective does where batches have neighbours: heads on CLIP's own features, for docs/STUDY.md.

    python benchmarks/study_heads.py --data=FOLDER       stopped and called again, it goes on

FOLDER/features has `imagenet_a.npz`, `caltech101.npz` and `oxford_flowers.npz`, features of OpenAI's CLIP ViT-B/32.
A linear map of image features and one of text features, both the identity at first, are trained on seven pictures of
each of 400 ImageNet classes and the classes' names. Then: zero-shot on 100 other ImageNet classes, and few-shot on
Caltech-101 and flowers. Rows go to docs/study/heads.csv, the summary into docs/STUDY.md.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import functools
import importlib.metadata
import itertools
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import adapt  # noqa: E402
from adapt.charts import Points, point_chart  # noqa: E402
from adapt.statistics import mean_interval  # noqa: E402
from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.study import markdown, put  # noqa: E402
from benchmarks.study_figures import framed  # noqa: E402
from configs.study_variants import Variant  # noqa: E402
from pretrain.blocks import Layout  # noqa: E402
from pretrain.context import Context  # noqa: E402

ROWS, TRIALS = ROOT / "docs" / "study" / "heads.csv", ROOT / "runs" / "study" / "heads.jsonl"
SHARES = ROOT / "docs" / "study" / "heads-shares.svg"
DIM, HELD_OUT, STEPS, WARMUP = 512, 5, 300, 20  # every fifth class is held out
RATE = 1e-3
SEEDS, DRAWS, SHOTS = 5, 5, (1, 4, 16)
WHOLE = 2800  # all pictures that are trained on, as one batch: no seed makes a difference
METHODS = ("prototypes", "knn", "tip_adapter")
TARGETS = ("caltech101", "oxford_flowers")


class Arm(NamedTuple):
    """What is trained: pictures of a class that come together, batch, learning rate, and the objective's settings."""

    objective: tuple[tuple[str, Any], ...]
    together: int = 1
    batch_size: int = 256
    rate: float = RATE

    @property
    def plain(self) -> Arm:
        """The same without context."""
        base = tuple((key, value) for key, value in self.objective if key == "base")
        return self._replace(objective=(("context", False), *base))

    @property
    def seeds(self) -> range:
        """The seeds that it is trained with."""
        return range(1 if self.batch_size == WHOLE else SEEDS)

    def create(self) -> Trial:
        """Returns the objective."""
        return Trial(**{"logit_scale": 10.0, "logit_bias": -10.0, **dict(self.objective)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial(Variant):
    """The context objective with what its paper does not have.

    With `memory`, pictures also attend to so many of earlier steps, as they were embedded then. With
    `final_temperature`, the temperature is not learned but goes geometrically from `context_temperature` to that.
    """

    memory: int = 0
    final_temperature: float | None = None
    remembered: jax.Array | None = None
    progress: jax.Array | None = None

    def contextualize(
        self, image_embeddings: jax.Array, text_embeddings: jax.Array, temperature: jax.Array, layout: Layout
    ) -> Context:
        """Returns softmax(u [u, memory]ᵀ / (temperature sqrt(dim)), own entry masked) [u, memory]."""
        if self.final_temperature is not None:
            ratio = math.log(self.final_temperature / self.context_temperature)
            temperature = math.log(self.context_temperature / math.sqrt(DIM)) + self.progress * ratio
        if not self.memory:
            return super().contextualize(image_embeddings, text_embeddings, temperature, layout)
        values = jnp.concatenate([image_embeddings, self.remembered])
        norms = jnp.linalg.norm(values, axis=1, keepdims=True)
        keys = values / jnp.maximum(norms, 1e-12)
        size = len(image_embeddings)
        logits = keys[:size] @ keys.T / (jnp.exp(temperature) * math.sqrt(DIM))
        left_out = jnp.eye(*logits.shape, dtype=bool) | (norms[:, 0] == 0)  # what is not yet remembered is zero
        attention = jax.nn.softmax(jnp.where(left_out, -jnp.inf, logits), axis=1)
        entropy = -jnp.sum(jax.scipy.special.xlogy(attention, attention), axis=1)
        return Context(attention @ values, jax.lax.stop_gradient(jnp.exp(entropy)))


def arm(together: int = 1, batch_size: int = 256, rate: float = RATE, **objective: Any) -> Arm:
    return Arm(tuple(objective.items()), together, batch_size, rate)


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


class Features(NamedTuple):
    """Unit features and labels of a set."""

    x: np.ndarray
    y: np.ndarray


class Data(NamedTuple):
    """Training pictures and the texts of all ImageNet classes, pictures of held-out classes, and the target sets."""

    train: Features
    texts: np.ndarray
    held_out: Features
    targets: Mapping[str, tuple[Features, Features]]


def open_data(folder: pathlib.Path) -> Data:
    """Reads the features; "val" of the target sets is what examples are drawn from, "test" what is asked."""
    with np.load(folder / "imagenet_a.npz") as file:
        x = np.concatenate([unit(file[f"support_{k}"]) for k in (1, 2, 4)])
        y = np.concatenate([file[f"support_labels_{k}"] for k in (1, 2, 4)])
        texts = unit(file["text"])
    held = y % HELD_OUT == 0
    targets = {}
    for name in TARGETS:
        with np.load(folder / f"{name}.npz") as file:
            targets[name] = tuple(Features(unit(file[part]), file[f"{part}_labels"]) for part in ("val", "test"))
    return Data(Features(x[~held], y[~held]), texts, Features(x[held], y[held]), targets)


def unit(x: np.ndarray) -> np.ndarray:
    """Returns the rows with norm 1, float32."""
    x = np.asarray(x, np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@functools.lru_cache(maxsize=1)
def make_step(objective: Trial, rate: float) -> tuple[Callable, Any, Any]:
    """Returns the compiled step, the first parameters and the optimizer's first state."""
    heads = {"image": jnp.eye(DIM), "text": jnp.eye(DIM), "scalars": objective.init(DIM)}
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, WARMUP, STEPS))

    @jax.jit
    def step(heads: Any, state: Any, images: jax.Array, texts: jax.Array, number: jax.Array) -> tuple[Any, Any, Any]:
        adam, remembered = state

        def loss(heads: Any) -> tuple[jax.Array, Any]:
            embeddings = images @ heads["image"]
            now = dataclasses.replace(objective, remembered=remembered, progress=number / STEPS)
            found = now(heads["scalars"], embeddings, texts @ heads["text"])
            return found.value, (found.metrics, embeddings)

        gradient, (metrics, embeddings) = jax.grad(loss, has_aux=True)(heads)
        change, adam = optimizer.update(gradient, adam)
        remembered = jnp.concatenate([embeddings, remembered])[: objective.memory]
        return optax.apply_updates(heads, change), (adam, remembered), metrics

    return step, heads, (optimizer.init(heads), jnp.zeros((objective.memory, DIM)))


def batches(labels: np.ndarray, size: int, together: int, seed: int) -> Iterator[np.ndarray]:
    """Yields rows of batches without end: all in a new order each epoch, or `together` of one class side by side."""
    rng = np.random.default_rng(seed)
    size = min(size, len(labels))
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    left = np.empty(0, int)
    while True:
        while len(left) < size:
            groups = [rng.permutation(rows)[: len(rows) // together * together] for rows in classes]
            groups = np.concatenate(groups).reshape(-1, together)
            left = np.concatenate([left, rng.permutation(groups).ravel()])
        yield left[:size]
        left = left[size:]


def train(given: Arm, data: Data, seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Returns the two maps after training, and what was logged of the last step."""
    step, heads, state = make_step(given.create(), given.rate)
    images, labels = jnp.asarray(data.train.x), data.train.y
    rows = batches(labels, given.batch_size, given.together, seed)
    for number in range(STEPS):
        chosen = next(rows)
        texts = jnp.asarray(data.texts[labels[chosen]])
        heads, state, metrics = step(heads, state, images[chosen], texts, jnp.asarray(number, jnp.float32))
    last = {name: float(value) for name, value in metrics.items()}
    objective = given.create()
    if objective.final_temperature is not None:
        last["context_temperature"] = objective.final_temperature / math.sqrt(DIM)
    if objective.context and objective.neighbours == "images" and not objective.memory:
        embeddings = np.asarray(images[chosen] @ heads["image"])
        last["companions"] = companions(embeddings, labels[chosen], last["context_temperature"], objective.self_mask)
    return {name: np.asarray(heads[name]) for name in ("image", "text")}, last


def companions(embeddings: np.ndarray, labels: np.ndarray, temperature: float, self_mask: bool) -> float:
    """Returns the share of a batch's attention that goes to pictures of the same class."""
    u = unit(embeddings)
    logits = u @ u.T / (temperature * math.sqrt(DIM))
    if self_mask:
        np.fill_diagonal(logits, -np.inf)
    attention = np.exp(logits - logits.max(axis=1, keepdims=True))
    attention /= attention.sum(axis=1, keepdims=True)
    return float(np.mean(np.sum(attention * (labels[:, None] == labels), axis=1)))


def score(heads: Mapping[str, np.ndarray], data: Data) -> dict[tuple[str, str, int], float]:
    """Returns accuracies by (set, method, shots): means over the draws, the same for whatever heads."""
    held, known = data.held_out, np.unique(data.held_out.y)
    logits = unit(held.x @ heads["image"]) @ unit(data.texts[known] @ heads["text"]).T
    found = {("imagenet", "zero_shot", 0): float(np.mean(known[logits.argmax(axis=1)] == held.y))}
    for name, (support, query) in data.targets.items():
        x, queries = (unit(part.x @ heads["image"]) for part in (support, query))
        for shots, method in itertools.product(SHOTS, METHODS):
            right = []
            for draw in range(DRAWS):
                rng = np.random.default_rng((draw, shots))
                of = [rng.permutation(np.flatnonzero(support.y == label))[:shots] for label in np.unique(support.y)]
                chosen = np.concatenate(of)
                answer = adapt.create(method).fit(x[chosen], support.y[chosen])(queries)
                right.append(np.mean(np.asarray(answer).argmax(axis=1) == query.y))
            found[name, method, shots] = float(np.mean(right))
    return found


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
        f"`python benchmarks/study_heads.py`, {day.isoformat()}, {describe_machine()}, {versions}; "
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

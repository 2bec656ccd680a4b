"""Runs of benchmarks/study/heads.py: linear heads on CLIP's features, their objective, batches and scores."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adapt
from benchmarks.study.variant_objective import VariantObjective
from pretrain.losses.contextual_attention import Context
from pretrain.losses.pairwise_blocks import BlockLayout

DIM, HELD_OUT, STEPS, WARMUP = 512, 5, 300, 20  # every fifth class is held out
RATE = 1e-3
SEEDS, DRAWS, SHOTS = 5, 5, (1, 4, 16)
WHOLE = 2800  # all training images in one batch; the seed makes no difference
METHODS = ("prototypes", "knn", "tip_adapter")
TARGETS = ("caltech101", "oxford_flowers")


class HeadSettings(NamedTuple):
    """Settings of a head: the objective's, images per class side by side, batch size and learning rate."""

    objective: tuple[tuple[str, Any], ...]
    together: int = 1
    batch_size: int = 256
    rate: float = RATE

    @property
    def plain(self) -> HeadSettings:
        """The same without context."""
        base = tuple((key, value) for key, value in self.objective if key == "base")
        return self._replace(objective=(("context", False), *base))

    @property
    def seeds(self) -> range:
        """The seeds that it is trained with."""
        return range(1 if self.batch_size == WHOLE else SEEDS)

    def create(self) -> HeadObjective:
        """Return the objective."""
        return HeadObjective(**{"logit_scale": 10.0, "logit_bias": -10.0, **dict(self.objective)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadObjective(VariantObjective):
    """The context objective with a temperature schedule, and a memory that the training loop carries.

    With `final_temperature` the temperature is not learned: it moves geometrically from `context_temperature` to that
    value, by the fraction `progress` of the run.
    """

    final_temperature: float | None = None
    remembered: jax.Array | None = None
    progress: jax.Array | None = None

    def contextualize(
        self, image_embeddings: jax.Array, text_embeddings: jax.Array, temperature: jax.Array, layout: BlockLayout
    ) -> Context:
        """Return the mixtures, at the scheduled temperature if there is a schedule."""
        if self.final_temperature is not None:
            ratio = math.log(self.final_temperature / self.context_temperature)
            temperature = math.log(self.context_temperature / math.sqrt(DIM)) + self.progress * ratio
        return super().contextualize(image_embeddings, text_embeddings, temperature, layout)

    def recall(self, rows: jax.Array) -> jax.Array:
        """Return the memory, which `train` carries from step to step."""
        return self.remembered


def head_settings(together: int = 1, *, batch_size: int = 256, rate: float = RATE, **objective: Any) -> HeadSettings:
    """Return the settings of a head; further keywords are those of its objective."""
    return HeadSettings(tuple(objective.items()), together, batch_size, rate)


class LabelledFeatures(NamedTuple):
    """Unit features `[n, dim]` and labels `[n]`."""

    x: np.ndarray
    y: np.ndarray


class HeadData(NamedTuple):
    """Training images, texts of all ImageNet classes, images of held-out classes, and the target sets."""

    train: LabelledFeatures
    texts: np.ndarray
    held_out: LabelledFeatures
    targets: Mapping[str, tuple[LabelledFeatures, LabelledFeatures]]


def open_data(folder: pathlib.Path) -> HeadData:
    """Read the features. Support images are drawn from "val" of the target sets; "test" holds the queries."""
    with np.load(folder / "imagenet_a.npz", allow_pickle=False) as file:
        x = np.concatenate([unit(file[f"support_{k}"]) for k in (1, 2, 4)])
        y = np.concatenate([file[f"support_labels_{k}"] for k in (1, 2, 4)])
        texts = unit(file["text"])
    held = y % HELD_OUT == 0
    targets = {}
    for name in TARGETS:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            targets[name] = tuple(
                LabelledFeatures(unit(file[part]), file[f"{part}_labels"]) for part in ("val", "test")
            )
    return HeadData(LabelledFeatures(x[~held], y[~held]), texts, LabelledFeatures(x[held], y[held]), targets)


def unit(x: np.ndarray) -> np.ndarray:
    """Return the rows with norm 1, float32."""
    x = np.asarray(x, np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class HeadStep(NamedTuple):
    """The compiled step, the initial parameters and the initial state of optimizer and memory."""

    step: Callable
    heads: Any
    state: Any


@functools.lru_cache(maxsize=1)
def make_step(objective: HeadObjective, rate: float) -> HeadStep:
    """Compile the training step of an objective at a learning rate."""
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

    return HeadStep(step, heads, (optimizer.init(heads), jnp.zeros((objective.memory, DIM))))


def batches(labels: np.ndarray, size: int, *, together: int, seed: int) -> Iterator[np.ndarray]:
    """Yield rows of batches without end: shuffled each epoch, with `together` images per class side by side."""
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


class TrainedHeads(NamedTuple):
    """The two linear maps after training, and the metrics of the last step."""

    heads: dict[str, np.ndarray]
    last: dict[str, float]


def train(settings: HeadSettings, data: HeadData, *, seed: int) -> TrainedHeads:
    """Train two linear maps with a seed for the order of the batches."""
    objective = settings.create()
    step, heads, state = make_step(objective, settings.rate)
    images, labels = jnp.asarray(data.train.x), data.train.y
    rows = batches(labels, settings.batch_size, together=settings.together, seed=seed)
    for number in range(STEPS):
        chosen = next(rows)
        texts = jnp.asarray(data.texts[labels[chosen]])
        heads, state, metrics = step(heads, state, images[chosen], texts, jnp.asarray(number, jnp.float32))
    last = {name: float(value) for name, value in metrics.items()}
    if objective.final_temperature is not None:
        last["context_temperature"] = objective.final_temperature / math.sqrt(DIM)
    if objective.context and objective.neighbours == "images" and not objective.memory:
        embeddings = np.asarray(images[chosen] @ heads["image"])
        last["companions"] = same_class_attention(
            embeddings, labels[chosen], temperature=last["context_temperature"], self_mask=objective.self_mask
        )
    return TrainedHeads({name: np.asarray(heads[name]) for name in ("image", "text")}, last)


def same_class_attention(embeddings: np.ndarray, labels: np.ndarray, *, temperature: float, self_mask: bool) -> float:
    """Return the share of a batch's attention that goes to images of the same class."""
    u = unit(embeddings)
    logits = u @ u.T / (temperature * math.sqrt(DIM))
    if self_mask:
        np.fill_diagonal(logits, -np.inf)
    attention = np.exp(logits - logits.max(axis=1, keepdims=True))
    attention /= attention.sum(axis=1, keepdims=True)
    return float(np.mean(np.sum(attention * (labels[:, None] == labels), axis=1)))


def score(heads: Mapping[str, np.ndarray], data: HeadData) -> dict[tuple[str, str, int], float]:
    """Return accuracies by (set, method, shots): means over draws, which are the same for all heads."""
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
